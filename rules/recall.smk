"""P2.1: which answers the model knows.

In: prompts, the model. Out: recall.csv, a row per subject, recall_summary.csv, known_filters.csv, who counts as known, and
bos_check.csv, a sample of the prompts with other first tokens. Config: compute, recall. GPU.
Time: a forward pass per subject and condition, a few seconds for the embedded model.
"""


rule recall:
    input:
        source="results/{study}/model/source.json",
        full="results/{study}/prompts/full.parquet",
        zero_shot="results/{study}/prompts/zero_shot.parquet",
        candidates="results/{study}/prompts/candidates.csv",
    output:
        recall="results/{study}/tables/recall.csv",
        recall_summary="results/{study}/tables/recall_summary.csv",
        known_filters="results/{study}/tables/known_filters.csv",
        bos_check="results/{study}/tables/bos_check.csv",
        provenance="results/{study}/provenance/recall.json",
    log:
        "results/{study}/logs/recall.log",
    benchmark:
        "results/{study}/benchmarks/recall.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        settings=settings(*RUN, "recall"),
        code=computes("recall"),
    script:
        "../scripts/experiment.py"
