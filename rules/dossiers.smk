"""P3.4: what the neurons that tell a sport are needed for, what their weights say, and which texts fire them.

In: the model, the scan of sport_neurons.csv, activations at the final name token, readers, circuit.yaml, and running text
where there is some. Out: a file for each neuron in dossiers/, and what they say as tables. Neurons that the configuration
names get a dossier whatever the scan found. Config: sport_neurons, compute. GPU. Time: seconds for the embedded model.
"""


rule dossiers:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        neurons="results/{study}/tables/sport_neurons.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
        texts=of(running_text),
    output:
        sport_neuron_histograms="results/{study}/tables/sport_neuron_histograms.parquet",
        sport_neuron_ablations="results/{study}/tables/sport_neuron_ablations.csv",
        sport_neuron_cosines="results/{study}/tables/sport_neuron_cosines.csv",
        sport_neuron_projections="results/{study}/tables/sport_neuron_projections.csv",
        # one file per sport, and which sports there are is known when it has run
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
            "compute",
            "sport_neurons.athletes",
            "sport_neurons.neurons",
            "sport_neurons.ablated_athletes",
            "sport_neurons.random_neurons",
            "sport_neurons.texts",
            "sport_neurons.text_tokens",
            "sport_neurons.window",
            "sport_neurons.shown_texts",
            "sport_neurons.seed",
        ),
        code=computes("dossiers"),
    script:
        "../scripts/experiment.py"
