"""P2.7: the residual stream before each layer, at each position, from a subject of another answer.

In: the prompts of the known subjects. Out: tables/residual_patching.csv. Config: interventions (subjects, patched_subjects,
seed), compute. GPU; seconds for the embedded model, minutes for Pythia 2.8B.
"""


rule residual_patching:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
    output:
        residual_patching="results/{study}/tables/residual_patching.csv",
        residual_patching_twin="results/{study}/tables/residual_patching_twin.csv",
        provenance="results/{study}/provenance/residual_patching.json",
    log:
        "results/{study}/logs/residual_patching.log",
    benchmark:
        "results/{study}/benchmarks/residual_patching.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=240,
    params:
        settings=settings(
            *RUN,
            *REPLACING,
            "interventions.subjects",
            "interventions.patched_subjects",
            "interventions.seed",
        ),
        code=computes("residual_patching"),
    script:
        "../scripts/experiment.py"
