"""Post 5: do early layers work locally?

download_texts  the texts of a data set of the Hugging Face hub, where one is configured; needs the network
locality        the residual stream with the whole context and with the last k tokens alone  GPU

In: the model, running text (a file, a data set, or the embedded model's corpus). Out: locality.csv, locality_tokens.csv,
locality_values.parquet. Config: locality, compute. Time: a few seconds for the embedded model; for each sampled token and
k a forward pass over k tokens.
"""


# Needs the network; run it by name where there is one: `snakemake download ...`
rule download_texts:
    output:
        texts="results/{study}/texts/texts.parquet",
        provenance="results/{study}/provenance/download_texts.json",
    log:
        "results/{study}/logs/download_texts.log",
    wildcard_constraints:
        study=names(dataset_studies()),
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(4000),
        runtime=120,
    params:
        settings=settings(
            "locality.dataset",
            "locality.dataset_config",
            "locality.dataset_split",
            "locality.dataset_revision",
            "locality.dataset_texts",
            "locality.field",
        ),
        code=code("download_texts.py"),
    script:
        "../scripts/download_texts.py"


rule locality:
    input:
        source="results/{study}/model/source.json",
        texts=of(local_texts),
    output:
        locality="results/{study}/tables/locality.csv",
        tokens="results/{study}/tables/locality_tokens.csv",
        values="results/{study}/tables/locality_values.parquet",
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
        settings=settings("compute", "locality"),
        code=code("locality.py"),
    script:
        "../scripts/locality.py"
