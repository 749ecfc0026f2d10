"""The texts of a data set of the Hugging Face hub, where one is configured for locality (post 5); needs the network.

In: nothing. Out: texts/texts.parquet. Config: locality. No GPU.
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
