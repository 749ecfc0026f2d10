"""P2.9: the circuit as tables over tokens, a few MLPs and a probe, and how often that is right.

In: the prompts of the known subjects, the readers, the circuit. Out: effective_model.safetensors (0.5 MB; 1 GB for Pythia
2.8B), tables/effective_model.csv, tables/effective_confusion.csv. Where there is no lookup at the name the file says so and
the tables are empty. Config: interventions (subjects, seed), compute. GPU; seconds for the embedded model.
"""


rule effective_model:
    input:
        source="results/{study}/model/source.json",
        full="results/{study}/prompts/full.parquet",
        name_only="results/{study}/prompts/name_only.parquet",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
    output:
        model="results/{study}/effective_model.safetensors",
        effective_model="results/{study}/tables/effective_model.csv",
        effective_confusion="results/{study}/tables/effective_confusion.csv",
        provenance="results/{study}/provenance/effective_model.json",
    log:
        "results/{study}/logs/effective_model.log",
    benchmark:
        "results/{study}/benchmarks/effective_model.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings(*RUN, "interventions.subjects", "interventions.seed"),
        code=computes("effective_model"),
    script:
        "../scripts/experiment.py"
