"""P2.11: whether the directions that probes read are the ones that the model reads.

In: the prompts of the known subjects, the readers, the circuit. Out: tables/probe_patching.csv. Config: interventions
(subjects, patched_subjects, seed), compute. GPU; seconds for the embedded model, minutes for Pythia 2.8B.
"""


rule probe_patching:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
    output:
        probe_patching="results/{study}/tables/probe_patching.csv",
        probe_patching_twin="results/{study}/tables/probe_patching_twin.csv",
        provenance="results/{study}/provenance/probe_patching.json",
    log:
        "results/{study}/logs/probe_patching.log",
    benchmark:
        "results/{study}/benchmarks/probe_patching.tsv"
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
            *REPLACING,
            "interventions.subjects",
            "interventions.patched_subjects",
            "interventions.seed",
            "recall.known",
            "recall.known_above",
        ),
        code=computes("probe_patching"),
    script:
        "../scripts/experiment.py"
