"""Subjects and prompts.

In: a subject table, the model's tokenizer. Out: the checked subjects with what was dropped and why; one prompts
table per condition with tokens, positions and roles; the answer tokens. Config: subjects. No GPU; seconds; 1 MB.
"""


rule subjects:
    input:
        table=taken(subject_table),
    output:
        subjects="results/{study}/tables/subjects.csv",
        notes="results/{study}/tables/subjects_notes.csv",
        provenance="results/{study}/provenance/subjects.json",
    log:
        "results/{study}/logs/subjects.log",
    benchmark:
        "results/{study}/benchmarks/subjects.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000),
        runtime=5,
    params:
        settings=settings(
            "subjects.table",
            "subjects.min_per_answer",
            "subjects.two_answers",
            "subjects.few",
            "relation.shot",
            *WORDS,
        ),
        code=code("subjects.py"),
        files=in_braces(table=subject_table),
    script:
        "../scripts/subjects.py"


rule prompts:
    input:
        source="results/{study}/model/source.json",
        subjects="results/{study}/tables/subjects.csv",
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
        settings=settings("relation.shot", "relation.before", "relation.after"),
        code=code("prompts.py"),
    script:
        "../scripts/prompts.py"
