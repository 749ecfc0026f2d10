"""P2.4: what these heads read at the final name token.

In: direct effects, activations, prompts, recall, the model's weights. Out: head_inputs.csv. Config: compute.dtype,
heads.subjects, heads.seed, heads.top, circuit.extract. No forward pass and no GPU. Time: ten seconds for the embedded
model, some minutes and 16 GB for Pythia 2.8B.
"""


rule head_inputs:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        direct_effects="results/{study}/tables/direct_effects.csv",
    output:
        head_inputs="results/{study}/tables/head_inputs.csv",
        provenance="results/{study}/provenance/head_inputs.json",
    log:
        "results/{study}/logs/head_inputs.log",
    benchmark:
        "results/{study}/benchmarks/head_inputs.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        mem_mb=megabytes(20000),
        runtime=60,
    params:
        settings=settings(
            "compute.dtype",
            "heads.subjects",
            "heads.seed",
            "heads.top",
            "circuit.extract",
        ),
        code=computes("head_inputs"),
    script:
        "../scripts/experiment.py"
