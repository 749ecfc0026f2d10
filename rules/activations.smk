"""Activation caches: one HDF5 file per condition.

activations_shard  some of the prompts go through the model, into finished shards  GPU
activations        the shards put together                                        no GPU

In: prompts, the model. Out: results/<study>/activations/<condition>.h5; finished shards stay under
results/.shards/activations, so that new subjects cost only their own forward passes. `activations.shards` jobs share the
prompts of a condition. Each leaves a listing, which is removed when the file is made: where the file has to be made again, so
have the listings, and these jobs look for their shards and make those that are gone. Config: compute, activations (but its
conditions), circuit.lookup. Disk: 27 kB per subject and condition for the embedded model, 3.2 MB for Pythia 2.8B, and as
much again for the shards. Time: a forward pass per subject.
"""


rule activations_shard:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/{condition}.parquet",
    output:
        listing=temp("results/{study}/activations/{condition}_shard_{shard}.h5"),
        provenance="results/{study}/provenance/activations_shard_{condition}_{shard}.json",
    log:
        "results/{study}/logs/activations_shard_{condition}_{shard}.log",
    benchmark:
        "results/{study}/benchmarks/activations_shard_{condition}_{shard}.tsv"
    wildcard_constraints:
        shard=r"\d+",
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
            "activations.shards",
            "circuit.lookup",
        ),
        code=code("activations_shard.py"),
        shards="results/.shards/activations",
    script:
        "../scripts/activations_shard.py"


rule activations:
    input:
        prompts="results/{study}/prompts/{condition}.parquet",
        listings=listings,
    output:
        activations="results/{study}/activations/{condition}.h5",
        provenance="results/{study}/provenance/activations_{condition}.json",
    log:
        "results/{study}/logs/activations_{condition}.log",
    benchmark:
        "results/{study}/benchmarks/activations_{condition}.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(8000),
        runtime=120,
    params:
        code=code("activations.py"),
        shards="results/.shards/activations",
    script:
        "../scripts/activations.py"
