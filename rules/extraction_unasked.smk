"""P1.2: what the extracting heads do where something else is asked.

In: the facts as prompts and the attributes (P1.1), prompts, recall, the circuit, the model. Out: tables/unasked_extraction.csv,
unasked_heads.csv, unasked_suppression.csv, additivity.csv, additivity_heads.csv. Config: extraction_unasked, compute. GPU. Time: a
forward pass for each subject and question, and some seconds.
"""


rule extraction_unasked:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        circuit="results/{study}/circuit.yaml",
        attributes="results/{study}/tables/attributes.csv",
        attribute_prompts="results/{study}/prompts/attribute_prompts.parquet",
    output:
        unasked_extraction="results/{study}/tables/unasked_extraction.csv",
        unasked_heads="results/{study}/tables/unasked_heads.csv",
        unasked_suppression="results/{study}/tables/unasked_suppression.csv",
        additivity="results/{study}/tables/additivity.csv",
        additivity_heads="results/{study}/tables/additivity_heads.csv",
        provenance="results/{study}/provenance/extraction_unasked.json",
    log:
        "results/{study}/logs/extraction_unasked.log",
    benchmark:
        "results/{study}/benchmarks/extraction_unasked.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=60,
    params:
        settings=settings(*RUN, "extraction_unasked"),
        code=computes("extraction_unasked"),
    script:
        "../scripts/experiment.py"
