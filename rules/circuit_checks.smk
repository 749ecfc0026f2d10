"""P2.8: whether the lookup happens at the name and needs the MLPs there.

In: prompts, recall, the model. Out: circuit_checks.csv. Config: compute, recall.seed. GPU. Time: seconds for the embedded
model, some minutes for Pythia 2.8B.
"""


rule circuit_checks:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
    output:
        circuit_checks="results/{study}/tables/circuit_checks.csv",
        provenance="results/{study}/provenance/circuit_checks.json",
    log:
        "results/{study}/logs/circuit_checks.log",
    benchmark:
        "results/{study}/benchmarks/circuit_checks.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        settings=settings(*RUN, "recall.seed"),
        code=computes("circuit_checks"),
    script:
        "../scripts/experiment.py"
