"""P2.3: where the heads that write the answer look.

In: direct effects, activations, prompts, recall, the model. Out: attention_roles.csv, attention_subjects.parquet. Config:
compute.dtype, heads.subjects, heads.seed, heads.top, circuit.extract. No forward pass and no GPU. Time: some seconds.
"""


rule attention_roles:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        direct_effects="results/{study}/tables/direct_effects.csv",
    output:
        attention_roles="results/{study}/tables/attention_roles.csv",
        attention_subjects="results/{study}/tables/attention_subjects.parquet",
        provenance="results/{study}/provenance/attention_roles.json",
    log:
        "results/{study}/logs/attention_roles.log",
    benchmark:
        "results/{study}/benchmarks/attention_roles.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        settings=settings(
            "compute.dtype",
            "heads.subjects",
            "heads.seed",
            "heads.top",
            "circuit.extract",
        ),
        code=computes("attention_roles"),
    script:
        "../scripts/experiment.py"
