"""P1.3: the relation as an affine map of the name's representation, by layer.

In: the prompts of the known subjects. Out: tables/linear_relation.csv. Config: linear_relation, compute. GPU; seconds for the
embedded model, minutes for a model of hundreds of millions of parameters on a processor: a backward pass for each dimension
of each example, and runs from each layer on.
"""


rule linear_relation:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
    output:
        linear_relation="results/{study}/tables/linear_relation.csv",
        provenance="results/{study}/provenance/linear_relation.json",
    log:
        "results/{study}/logs/linear_relation.log",
    benchmark:
        "results/{study}/benchmarks/linear_relation.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings(*RUN, "linear_relation"),
        code=computes("linear_relation"),
    script:
        "../scripts/experiment.py"
