"""P3.8: what of each subject's residual no others span, through the best neuron of each answer.

In: the model, the prompts of the conditions of `names`, the answer neurons (P3.4). Out: orthogonal_remainder.csv. Config:
names, compute. GPU. Time: seconds for the embedded model.
"""


rule orthogonal_remainder:
    input:
        source="results/{study}/model/source.json",
        prompts=of(name_prompts),
        recall="results/{study}/tables/recall.csv",
        neurons="results/{study}/tables/answer_neurons.csv",
    output:
        orthogonal_remainder="results/{study}/tables/orthogonal_remainder.csv",
        provenance="results/{study}/provenance/orthogonal_remainder.json",
    log:
        "results/{study}/logs/orthogonal_remainder.log",
    benchmark:
        "results/{study}/benchmarks/orthogonal_remainder.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(32000),
        runtime=120,
    params:
        settings=settings(*RUN, "names.subjects", "names.conditions", "names.seed"),
        code=computes("orthogonal_remainder"),
    script:
        "../scripts/experiment.py"
