"""P2.2-P2.6: which heads bring the answer to END, where they look, what they read, and what they would answer.

In: activations, prompts, recall, the model's weights. Out: direct_effects.csv, attention_roles.csv,
attention_athletes.parquet, head_inputs.csv; head_probes.csv, head_probe_layers.csv. Config: compute, heads,
circuit.extract. No forward pass and no GPU. Time: ten seconds each for the embedded model, some minutes and 16 GB for
Pythia 2.8B.
"""


rule direct_effects:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
    output:
        effects="results/{study}/tables/direct_effects.csv",
        roles="results/{study}/tables/attention_roles.csv",
        athletes="results/{study}/tables/attention_athletes.parquet",
        inputs="results/{study}/tables/head_inputs.csv",
        provenance="results/{study}/provenance/direct_effects.json",
    log:
        "results/{study}/logs/direct_effects.log",
    benchmark:
        "results/{study}/benchmarks/direct_effects.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        mem_mb=megabytes(20000),
        runtime=60,
    params:
        settings=settings("compute", "heads", "circuit.extract"),
        code=code("direct_effects.py"),
    script:
        "../scripts/direct_effects.py"


rule head_probes:
    input:
        source="results/{study}/model/source.json",
        full="results/{study}/activations/full.h5",
        activations=activations_of("heads"),
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        effects="results/{study}/tables/direct_effects.csv",
    output:
        heads="results/{study}/tables/head_probes.csv",
        layers="results/{study}/tables/head_probe_layers.csv",
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
        settings=settings("compute", "heads", "circuit.extract"),
        code=code("head_probes.py"),
    script:
        "../scripts/head_probes.py"
