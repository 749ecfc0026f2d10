"""P3.4: every neuron of the lookup's MLPs as a detector of each sport.

In: activations at the final name token, circuit.yaml. Out: sport_neurons.csv, empty where no lookup is at the final name
token. Config: sport_neurons. No GPU: the activations are there already. Time: seconds for the embedded model; it grows
with the neurons of the lookup, and with `permutations`.
"""


rule sport_neurons:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        circuit="results/{study}/circuit.yaml",
    output:
        sport_neurons="results/{study}/tables/sport_neurons.csv",
        provenance="results/{study}/provenance/sport_neurons.json",
    log:
        "results/{study}/logs/sport_neurons.log",
    benchmark:
        "results/{study}/benchmarks/sport_neurons.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings(
            "sport_neurons.athletes",
            "sport_neurons.best",
            "sport_neurons.permutations",
            "sport_neurons.seed",
        ),
        code=computes("sport_neurons"),
    script:
        "../scripts/experiment.py"
