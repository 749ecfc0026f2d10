"""Linear probes of the unchanged model, by which simplified ones are read (P2.8-P2.11).

In: activations, recall. Out: readers.safetensors. Config: probes, interventions.athletes. No GPU; seconds.
"""


rule readers:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
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
        settings=settings("probes", "interventions.athletes"),
        code=code("readers.py"),
    script:
        "../scripts/readers.py"
