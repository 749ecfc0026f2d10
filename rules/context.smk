"""P2.10: whether what comes before a name changes what is made of it.

In: the prompts of the known subjects, the readers. Out: tables/context.csv. Config: interventions (subjects, seed),
relation (before, shot, title, sentence), compute. GPU; seconds for the embedded model.
"""


rule context:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
    output:
        context="results/{study}/tables/context.csv",
        provenance="results/{study}/provenance/context.json",
    log:
        "results/{study}/logs/context.log",
    benchmark:
        "results/{study}/benchmarks/context.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings(
            *RUN,
            "relation.before",
            "relation.after",
            "relation.shot",
            "relation.title",
            "relation.sentence",
            "interventions.subjects",
            "interventions.seed",
        ),
        code=computes("context"),
    script:
        "../scripts/experiment.py"
