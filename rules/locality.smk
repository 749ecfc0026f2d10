"""Post 5: the residual stream with the whole context, and with the last k tokens alone.

In: the model, running text (a file, a data set, or the embedded model's corpus). Out: locality.csv, locality_tokens.csv,
locality_differences.csv, locality_values.parquet. Config: locality, compute. GPU. Time: a few seconds for the embedded model; for each sampled
token and k a forward pass over k tokens.
"""


rule locality:
    input:
        source="results/{study}/model/source.json",
        texts=taken(local_texts),
    output:
        locality="results/{study}/tables/locality.csv",
        locality_tokens="results/{study}/tables/locality_tokens.csv",
        locality_differences="results/{study}/tables/locality_differences.csv",
        locality_values="results/{study}/tables/locality_values.parquet",
        provenance="results/{study}/provenance/locality.json",
    log:
        "results/{study}/logs/locality.log",
    benchmark:
        "results/{study}/benchmarks/locality.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings(
            *RUN,
            "locality.texts",
            "locality.dataset",
            "locality.field",
            "locality.strings",
            "locality.tokens",
            "locality.positions",
            "locality.k",
            "locality.seed",
        ),
        code=computes("locality"),
        files=in_braces(texts=local_texts),
    script:
        "../scripts/experiment.py"
