"""P2.2: which heads and MLPs write the answer at END.

In: activations, prompts, recall, the model's weights. Out: direct_effects.csv. Config: compute.dtype, heads.subjects,
heads.seed. No forward pass and no GPU. Time: ten seconds for the embedded model, some minutes and 16 GB for Pythia 2.8B.
"""


rule direct_effects:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
    output:
        direct_effects="results/{study}/tables/direct_effects.csv",
        provenance="results/{study}/provenance/direct_effects.json",
    log:
        "results/{study}/logs/direct_effects.log",
    benchmark:
        "results/{study}/benchmarks/direct_effects.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        mem_mb=megabytes(20000),
        runtime=60,
    params:
        settings=settings("compute.dtype", "heads.subjects", "heads.seed"),
        code=computes("direct_effects"),
    script:
        "../scripts/experiment.py"
