"""P3.5: where in the effective model a probe reads the answer.

In: the effective model, the names of the subjects. Out: effective_probes.csv, empty where there is no effective model.
Config: lookup, compute, and how probes are fitted (probes). GPU. Time: seconds for the embedded model.
"""


rule effective_probes:
    input:
        model="results/{study}/effective_model.safetensors",
        accuracy="results/{study}/tables/effective_model.csv",
        prompts="results/{study}/prompts/name_only.parquet",
        recall="results/{study}/tables/recall.csv",
    output:
        effective_probes="results/{study}/tables/effective_probes.csv",
        provenance="results/{study}/provenance/effective_probes.json",
    log:
        "results/{study}/logs/effective_probes.log",
    benchmark:
        "results/{study}/benchmarks/effective_probes.tsv"
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
            "lookup.subjects",
            "lookup.name_tokens",
            "lookup.probe_folds",
            "lookup.probe_repeats",
            "lookup.seed",
            "probes.n_folds",
            "probes.regularisation",
            "probes.max_iter",
            "probes.tolerance",
        ),
        code=computes("effective_probes"),
    script:
        "../scripts/experiment.py"
