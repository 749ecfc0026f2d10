"""P2.8: right answers left as more and more layers are averaged at the final name token.

In: the prompts of the known subjects, the readers. Out: tables/circuit_scan.csv, tables/circuit_borders.csv. Config: interventions (subjects,
patched_subjects, seed), compute. GPU; seconds for the embedded model, minutes for Pythia 2.8B.
"""


rule circuit_scan:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
    output:
        circuit_scan="results/{study}/tables/circuit_scan.csv",
        circuit_borders="results/{study}/tables/circuit_borders.csv",
        circuit_scan_twin="results/{study}/tables/circuit_scan_twin.csv",
        provenance="results/{study}/provenance/circuit_scan.json",
    log:
        "results/{study}/logs/circuit_scan.log",
    benchmark:
        "results/{study}/benchmarks/circuit_scan.tsv"
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
        ),
        code=computes("circuit_scan"),
    script:
        "../scripts/experiment.py"
