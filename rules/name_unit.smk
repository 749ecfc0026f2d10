"""P1.6: what the probes of whole names read where a name is cut off, goes on, or has another's token before it.

In: the prompts of the known subjects, the readers. Out: tables/name_unit.csv and name_unit_answers.csv. Config: name_unit, compute.
GPU; seconds: a few forward passes for each subject.
"""


rule name_unit:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
    output:
        name_unit="results/{study}/tables/name_unit.csv",
        name_unit_answers="results/{study}/tables/name_unit_answers.csv",
        provenance="results/{study}/provenance/name_unit.json",
    log:
        "results/{study}/logs/name_unit.log",
    benchmark:
        "results/{study}/benchmarks/name_unit.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        settings=settings(*RUN, "name_unit"),
        code=computes("name_unit"),
    script:
        "../scripts/experiment.py"
