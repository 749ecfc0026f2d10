"""P3.1: every path from one MLP of the lookup to a later one, removed.

In: the prompts of the known subjects, the readers, the circuit. Out: tables/mlp_paths.csv, empty where no lookup at the name
was found. Config: mlp_paths, compute. GPU; ten seconds for the embedded model, minutes for Pythia 2.8B.
"""


rule mlp_paths:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
    output:
        mlp_paths="results/{study}/tables/mlp_paths.csv",
        mlp_paths_twin="results/{study}/tables/mlp_paths_twin.csv",
        provenance="results/{study}/provenance/mlp_paths.json",
    log:
        "results/{study}/logs/mlp_paths.log",
    benchmark:
        "results/{study}/benchmarks/mlp_paths.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings(*RUN, *REPLACING, "mlp_paths"),
        code=computes("mlp_paths"),
    script:
        "../scripts/experiment.py"
