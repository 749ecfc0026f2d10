"""P3.4: every neuron of the lookup's MLPs as a detector of each answer.

In: activations at the final name token, circuit.yaml. Out: answer_neurons.csv, empty where no lookup is at the final name
token. Config: answer_neurons. No GPU: the activations are there already. Time: seconds for the embedded model; it grows
with the neurons of the lookup, and with `permutations`.
"""


rule answer_neurons:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        circuit="results/{study}/circuit.yaml",
    output:
        answer_neurons="results/{study}/tables/answer_neurons.csv",
        provenance="results/{study}/provenance/answer_neurons.json",
    log:
        "results/{study}/logs/answer_neurons.log",
    benchmark:
        "results/{study}/benchmarks/answer_neurons.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings(
            "answer_neurons.subjects",
            "answer_neurons.best",
            "answer_neurons.permutations",
            "answer_neurons.seed",
        ),
        code=computes("answer_neurons"),
    script:
        "../scripts/experiment.py"
