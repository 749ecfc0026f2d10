"""P3.9: the most specific neurons of each subject, set to their mean, or put into the run of another.

In: the prompts of the known subjects, the circuit. Out: tables/entity_cells.csv and entity_cell_subjects.csv. Config: entity_cells,
compute. GPU; seconds for the embedded model, a minute or two for a model of hundreds of millions of parameters on a processor.
"""


rule entity_cells:
    input:
        source="results/{study}/model/source.json",
        circuit="results/{study}/circuit.yaml",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
    output:
        entity_cells="results/{study}/tables/entity_cells.csv",
        entity_cell_subjects="results/{study}/tables/entity_cell_subjects.csv",
        provenance="results/{study}/provenance/entity_cells.json",
    log:
        "results/{study}/logs/entity_cells.log",
    benchmark:
        "results/{study}/benchmarks/entity_cells.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings(*RUN, "entity_cells"),
        code=computes("entity_cells"),
    script:
        "../scripts/experiment.py"
