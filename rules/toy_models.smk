"""Post 4: small networks that learn tables of pairs by heart, or the rule behind them.

In: nothing: they have nothing to do with the study's model, and run beside its training. Out: toy_models.csv,
toy_summary.csv, toy_verdict.csv, toy_readings.parquet, toy_neurons.parquet. Config: toys. No GPU. Time: half a minute; the
grid of studies/toys-full.yaml, an hour.
"""


rule toy_models:
    output:
        toy_models="results/{study}/tables/toy_models.csv",
        toy_summary="results/{study}/tables/toy_summary.csv",
        toy_verdict="results/{study}/tables/toy_verdict.csv",
        toy_readings="results/{study}/tables/toy_readings.parquet",
        toy_neurons="results/{study}/tables/toy_neurons.parquet",
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
        settings=settings(
            "toys.sizes",
            "toys.widths",
            "toys.depths",
            "toys.neurons_per_width",
            "toys.seeds",
            "toys.classes",
            "toys.exceptions",
            "toys.held_out",
            "toys.max_steps",
            "toys.learning_rate",
            "toys.weight_decay",
            "toys.settled",
            "toys.seed",
        ),
        code=computes("toy_models"),
    script:
        "../scripts/experiment.py"
