"""Post 4's pictures: what small networks say between the points in the plane that they learnt.

In: nothing. Out: toy_illustrations.parquet. Config: toys. No GPU. Time: seconds.
"""


rule toy_illustrations:
    output:
        toy_illustrations="results/{study}/tables/toy_illustrations.parquet",
        provenance="results/{study}/provenance/toy_illustrations.json",
    log:
        "results/{study}/logs/toy_illustrations.log",
    benchmark:
        "results/{study}/benchmarks/toy_illustrations.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(4000),
        runtime=60,
    params:
        settings=settings(
            "toys.points",
            "toys.picture_steps",
            "toys.learning_rate",
            "toys.weight_decay",
            "toys.settled",
            "toys.seed",
        ),
        code=computes("toy_illustrations"),
    script:
        "../scripts/experiment.py"
