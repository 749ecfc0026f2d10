"""P2.5, P2.6: what each head would answer if it read the name, and the best of them by layer.

In: direct effects, activations of each condition, prompts, recall, the model's weights. Out: head_probes.csv,
head_probe_layers.csv. Config: compute.dtype, heads, circuit.extract. No forward pass and no GPU. Time: ten seconds for
the embedded model, some minutes for Pythia 2.8B.
"""


rule head_probes:
    input:
        source="results/{study}/model/source.json",
        full="results/{study}/activations/full.h5",
        activations=activations_of("heads"),
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        direct_effects="results/{study}/tables/direct_effects.csv",
    output:
        head_probes="results/{study}/tables/head_probes.csv",
        head_probe_layers="results/{study}/tables/head_probe_layers.csv",
        provenance="results/{study}/provenance/head_probes.json",
    log:
        "results/{study}/logs/head_probes.log",
    benchmark:
        "results/{study}/benchmarks/head_probes.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        settings=settings("compute.dtype", "heads", "circuit.extract"),
        code=computes("head_probes"),
    script:
        "../scripts/experiment.py"
