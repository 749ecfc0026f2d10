"""P2.8: which layers do what: what the configuration fixes, and a proposal for the rest.

In: the tables circuit_scan, residual_patching and total_effects. Out: circuit.yaml, with the numbers that it rests on, and
the same as tables/circuit.csv. Config: circuit. No GPU; a second.
"""


rule circuit:
    input:
        circuit_scan="results/{study}/tables/circuit_scan.csv",
        residual_patching="results/{study}/tables/residual_patching.csv",
        total_effects="results/{study}/tables/total_effects.parquet",
    output:
        circuit="results/{study}/tables/circuit.csv",
        circuit_yaml="results/{study}/circuit.yaml",
        provenance="results/{study}/provenance/circuit.json",
    log:
        "results/{study}/logs/circuit.log",
    benchmark:
        "results/{study}/benchmarks/circuit.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000),
        runtime=10,
    params:
        settings=settings("circuit"),
        code=computes("circuit"),
    script:
        "../scripts/experiment.py"
