"""P3.4: what the neurons that tell an answer are needed for, what their weights say, and which texts fire them.

In: the model, the scan of answer_neurons.csv, activations at the final name token, readers, circuit.yaml, and running text
where there is some. Out: a file for each neuron in dossiers/, and what they say as tables. Neurons that the configuration
names get a dossier whatever the scan found. Config: answer_neurons, compute. GPU. Time: seconds for the embedded model.
"""


rule dossiers:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        neurons="results/{study}/tables/answer_neurons.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
        texts=taken(running_text),
    output:
        answer_neuron_histograms="results/{study}/tables/answer_neuron_histograms.parquet",
        answer_neuron_ablations="results/{study}/tables/answer_neuron_ablations.csv",
        answer_neuron_cosines="results/{study}/tables/answer_neuron_cosines.csv",
        answer_neuron_projections="results/{study}/tables/answer_neuron_projections.csv",
        # one file per answer, and which answers there are is known when it has run
        dossiers=directory("results/{study}/dossiers"),
        provenance="results/{study}/provenance/dossiers.json",
    log:
        "results/{study}/logs/dossiers.log",
    benchmark:
        "results/{study}/benchmarks/dossiers.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings(
            *RUN,
            "answer_neurons.subjects",
            "answer_neurons.neurons",
            "answer_neurons.ablated_subjects",
            "answer_neurons.random_neurons",
            "answer_neurons.texts",
            "answer_neurons.text_tokens",
            "answer_neurons.window",
            "answer_neurons.shown_texts",
            "answer_neurons.seed",
        ),
        code=computes("dossiers"),
        files=in_braces(texts=running_text),
    script:
        "../scripts/experiment.py"
