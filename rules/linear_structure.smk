"""P3.7: how far each layer is from adding up the parts of a name, with swapped names.

In: the model, the prompts of the conditions of `names`. Out: linear_structure.csv. Config: names, compute. GPU. Time:
seconds for the embedded model; six forward passes for each pair of names, in the model and in each copy with its MLPs
shuffled (`names.shuffles`).
"""


rule linear_structure:
    input:
        source="results/{study}/model/source.json",
        prompts=of(name_prompts),
        recall="results/{study}/tables/recall.csv",
    output:
        linear_structure="results/{study}/tables/linear_structure.csv",
        provenance="results/{study}/provenance/linear_structure.json",
    log:
        "results/{study}/logs/linear_structure.log",
    benchmark:
        "results/{study}/benchmarks/linear_structure.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(32000),
        runtime=120,
    params:
        settings=settings(
            *RUN,
            "names.subjects",
            "names.conditions",
            "names.swap_pairs",
            "names.shuffles",
            "names.seed",
        ),
        code=computes("linear_structure"),
    script:
        "../scripts/experiment.py"
