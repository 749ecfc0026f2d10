"""P3.3: what the effective model's output has beyond a sum of a name's parts, and which neurons make it.

In: the effective model, the names of the subjects, the probes that read it (the first extracting head's, from the model's
weights, and the logistic readers). Out: nonlinear_excess.csv, nonlinear_excess_subjects.parquet,
nonlinear_excess_neurons.parquet; empty where there is no effective model. Config: lookup, compute. GPU. Time: seconds
for the embedded model; all pairings of the names' parts are run once.
"""


rule nonlinear_excess:
    input:
        source="results/{study}/model/source.json",
        model="results/{study}/effective_model.safetensors",
        accuracy="results/{study}/tables/effective_model.csv",
        prompts="results/{study}/prompts/name_only.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
    output:
        nonlinear_excess="results/{study}/tables/nonlinear_excess.csv",
        nonlinear_excess_subjects="results/{study}/tables/nonlinear_excess_subjects.parquet",
        nonlinear_excess_neurons="results/{study}/tables/nonlinear_excess_neurons.parquet",
        provenance="results/{study}/provenance/nonlinear_excess.json",
    log:
        "results/{study}/logs/nonlinear_excess.log",
    benchmark:
        "results/{study}/benchmarks/nonlinear_excess.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings(
            "compute.batch_size",
            "compute.device",
            "compute.dtype",
            "lookup.subjects",
            "lookup.name_tokens",
            "lookup.seed",
        ),
        code=computes("nonlinear_excess"),
    script:
        "../scripts/experiment.py"
