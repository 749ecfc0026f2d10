"""P2.8: the circuit simplified step by step, and what of the answer is left at each layer.

In: the prompts of the known subjects, the readers, the circuit. Out: tables/ladder.csv. Config: interventions (subjects,
draws, seed), compute. GPU; ten seconds for the embedded model, minutes for Pythia 2.8B.
"""


rule ladder:
    input:
        source="results/{study}/model/source.json",
        full="results/{study}/prompts/full.parquet",
        name_only="results/{study}/prompts/name_only.parquet",
        recall="results/{study}/tables/recall.csv",
        candidates="results/{study}/prompts/candidates.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
    output:
        ladder="results/{study}/tables/ladder.csv",
        ladder_twin="results/{study}/tables/ladder_twin.csv",
        provenance="results/{study}/provenance/ladder.json",
    log:
        "results/{study}/logs/ladder.log",
    benchmark:
        "results/{study}/benchmarks/ladder.tsv"
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
            "interventions.draws",
            "interventions.seed",
        ),
        code=computes("ladder"),
    script:
        "../scripts/experiment.py"
