"""Post 4: toy models of memorisation. They have nothing to do with the study's model, and run beside its training.

In: nothing. Out: toy_models.csv, toy_summary.csv, toy_verdict.csv, toy_readings.parquet, toy_neurons.parquet,
toy_illustrations.parquet. Config: toys. No GPU. Time: half a minute; the grid of studies/toys-full.yaml, an hour.
"""


rule toy_models:
    output:
        models="results/{study}/tables/toy_models.csv",
        summary="results/{study}/tables/toy_summary.csv",
        verdict="results/{study}/tables/toy_verdict.csv",
        readings="results/{study}/tables/toy_readings.parquet",
        neurons="results/{study}/tables/toy_neurons.parquet",
        illustrations="results/{study}/tables/toy_illustrations.parquet",
        provenance="results/{study}/provenance/toy_models.json",
    log:
        "results/{study}/logs/toy_models.log",
    benchmark:
        "results/{study}/benchmarks/toy_models.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(4000),
        runtime=240,
    params:
        settings=settings("toys"),
        code=code("toy_models.py"),
    script:
        "../scripts/toy_models.py"
