"""P3.2: how alike the neurons behind different facts of one subject are.

In: neuron_effects.parquet, neuron_facts.parquet. Out: fact_correlations.csv; neuron_pairs.csv, the effects behind the most and the least alike
pair of facts. Config: neurons.seed. No GPU; seconds.
"""


rule fact_correlations:
    input:
        effects="results/{study}/tables/neuron_effects.parquet",
        facts="results/{study}/tables/neuron_facts.parquet",
    output:
        fact_correlations="results/{study}/tables/fact_correlations.csv",
        neuron_pairs="results/{study}/tables/neuron_pairs.csv",
        provenance="results/{study}/provenance/fact_correlations.json",
    log:
        "results/{study}/logs/fact_correlations.log",
    benchmark:
        "results/{study}/benchmarks/fact_correlations.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        settings=settings("neurons.seed"),
        code=computes("fact_correlations"),
    script:
        "../scripts/experiment.py"
