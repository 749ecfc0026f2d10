"""Athletes and prompts.

In: an athlete table, the model's tokenizer. Out: the checked athletes with what was dropped and why; one prompts
table per condition with tokens, positions and roles; the answer tokens. Config: athletes. No GPU; seconds; 1 MB.
"""


rule athletes:
    input:
        table=of(athlete_table),
    output:
        athletes="results/{study}/tables/athletes.csv",
        notes="results/{study}/tables/athletes_notes.csv",
        provenance="results/{study}/provenance/athletes.json",
    log:
        "results/{study}/logs/athletes.log",
    benchmark:
        "results/{study}/benchmarks/athletes.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000),
        runtime=5,
    params:
        settings=settings("athletes"),
        code=code("athletes.py"),
    script:
        "../scripts/athletes.py"


rule prompts:
    input:
        source="results/{study}/model/source.json",
        athletes="results/{study}/tables/athletes.csv",
    output:
        full="results/{study}/prompts/full.parquet",
        name_only="results/{study}/prompts/name_only.parquet",
        zero_shot="results/{study}/prompts/zero_shot.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        provenance="results/{study}/provenance/prompts.json",
    log:
        "results/{study}/logs/prompts.log",
    benchmark:
        "results/{study}/benchmarks/prompts.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000),
        runtime=10,
    params:
        code=code("prompts.py"),
    script:
        "../scripts/prompts.py"
