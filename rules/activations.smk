"""Activation caches: one HDF5 file per condition.

In: prompts, the model. Out: results/<study>/activations/<condition>.h5; finished shards stay under
results/.shards/activations, so that new subjects cost only their own forward passes. Config: compute,
activations (but its conditions), circuit.lookup. GPU. Disk: 27 kB per subject and condition for the embedded model, 3.2 MB for Pythia 2.8B, and as much again
for the shards. Time: a forward pass per subject.
"""


rule activations:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/{condition}.parquet",
    output:
        activations="results/{study}/activations/{condition}.h5",
        provenance="results/{study}/provenance/activations_{condition}.json",
    log:
        "results/{study}/logs/activations_{condition}.log",
    benchmark:
        "results/{study}/benchmarks/activations_{condition}.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=240,
    params:
        settings=settings(
            *RUN,
            "activations.datasets",
            "activations.stored",
            "circuit.lookup",
        ),
        code=code("activations.py"),
        shards="results/.shards/activations",
    script:
        "../scripts/activations.py"
