"""P3.6: how much each layer writes for known names, and for unknown pairings of their tokens.

In: the model, the prompts of the conditions of `names`. Out: mlp_norms.csv. Config: names, compute. GPU. Time: seconds
for the embedded model; a forward pass for each name.
"""


rule mlp_norms:
    input:
        source="results/{study}/model/source.json",
        prompts=of(name_prompts),
        recall="results/{study}/tables/recall.csv",
    output:
        mlp_norms="results/{study}/tables/mlp_norms.csv",
        provenance="results/{study}/provenance/mlp_norms.json",
    log:
        "results/{study}/logs/mlp_norms.log",
    benchmark:
        "results/{study}/benchmarks/mlp_norms.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(32000),
        runtime=120,
    params:
        settings=settings(*RUN, "names.subjects", "names.conditions", "names.seed"),
        code=computes("mlp_norms"),
    script:
        "../scripts/experiment.py"
