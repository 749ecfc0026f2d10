"""P3.2: how few neurons carry the effects on a fact.

In: neuron_effects.parquet. Out: effect_concentration.csv. Config: neurons.seed. No GPU; seconds.
"""


rule effect_concentration:
    input:
        effects="results/{study}/tables/neuron_effects.parquet",
    output:
        effect_concentration="results/{study}/tables/effect_concentration.csv",
        provenance="results/{study}/provenance/effect_concentration.json",
    log:
        "results/{study}/logs/effect_concentration.log",
    benchmark:
        "results/{study}/benchmarks/effect_concentration.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        settings=settings("neurons.seed"),
        code=computes("effect_concentration"),
    script:
        "../scripts/experiment.py"
