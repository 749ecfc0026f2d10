"""Linear probes of the unchanged model, by which simplified ones are read.

In: activations, prompts, recall. Out: readers.safetensors. Config: probes (but its folds and conditions),
interventions.subjects. No GPU. Time: seconds for the embedded model; tens of minutes for a width of 2560.
"""


rule readers:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        recall="results/{study}/tables/recall.csv",
    output:
        readers="results/{study}/readers.safetensors",
        provenance="results/{study}/provenance/readers.json",
    log:
        "results/{study}/logs/readers.log",
    benchmark:
        "results/{study}/benchmarks/readers.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        mem_mb=megabytes(8000),
        runtime=240,
    params:
        settings=settings(
            "probes.n_folds",
            "probes.regularisation",
            "probes.max_iter",
            "probes.tolerance",
            "probes.seed",
            "interventions.subjects",
        ),
        code=computes("readers"),
    script:
        "../scripts/experiment.py"
