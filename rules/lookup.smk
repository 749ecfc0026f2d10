"""P3.1: every path from one MLP of the lookup to a later one, removed. GPU.

Config: mlp_paths, compute. The rule needs a lookup at the final name token (circuit.yaml) and writes an empty table where there is none.
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
        paths="results/{study}/tables/mlp_paths.csv",
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
        settings=settings("compute", "mlp_paths"),
        code=code("mlp_paths.py"),
    script:
        "../scripts/mlp_paths.py"
