"""P1.4: what the features of sparse dictionaries of the final name token stand for.

In: activations under both conditions, prompts, recall, the facts as prompts (P1.1), the circuit, the model's tokenizer. Out:
tables/dictionaries.csv, dictionary_kinds.csv, dictionary_features.parquet. Config: dictionaries, compute.dtype. No GPU. Time: a
minute for the embedded model, two for a width of 576.
"""


rule dictionaries:
    input:
        source="results/{study}/model/source.json",
        activations=expand(
            "results/{{study}}/activations/{condition}.h5",
            condition=["full", "name_only"],
        ),
        prompts="results/{study}/prompts/full.parquet",
        recall="results/{study}/tables/recall.csv",
        attribute_prompts="results/{study}/prompts/attribute_prompts.parquet",
        circuit="results/{study}/circuit.yaml",
    output:
        dictionaries="results/{study}/tables/dictionaries.csv",
        dictionary_kinds="results/{study}/tables/dictionary_kinds.csv",
        dictionary_features="results/{study}/tables/dictionary_features.parquet",
        provenance="results/{study}/provenance/dictionaries.json",
    log:
        "results/{study}/logs/dictionaries.log",
    benchmark:
        "results/{study}/benchmarks/dictionaries.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        mem_mb=megabytes(8000),
        runtime=60,
    params:
        settings=settings("compute.dtype", "dictionaries"),
        code=computes("dictionaries"),
    script:
        "../scripts/experiment.py"
