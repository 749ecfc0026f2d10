"""P2.12: whether other wordings of the question find the same heads, layers and neurons.

In: prompts, recall, direct effects, circuit.yaml, the model. Out: tables/paraphrases.csv, paraphrase_layers.csv,
paraphrase_nodes.csv, paraphrase_agreement.csv. Config: relation (shot, before, after, paraphrases), recall (known), paraphrases, probes
(folds, fitting), heads.top, circuit.extract, compute. GPU. Time: a forward pass per subject and wording, and some seconds.
"""


rule paraphrases:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        direct_effects="results/{study}/tables/direct_effects.csv",
        circuit="results/{study}/circuit.yaml",
    output:
        paraphrases="results/{study}/tables/paraphrases.csv",
        paraphrase_layers="results/{study}/tables/paraphrase_layers.csv",
        paraphrase_nodes="results/{study}/tables/paraphrase_nodes.csv",
        paraphrase_agreement="results/{study}/tables/paraphrase_agreement.csv",
        provenance="results/{study}/provenance/paraphrases.json",
    log:
        "results/{study}/logs/paraphrases.log",
    benchmark:
        "results/{study}/benchmarks/paraphrases.tsv"
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
            "relation.shot",
            "relation.before",
            "relation.after",
            "relation.paraphrases",
            "recall.known",
            "recall.known_above",
            "paraphrases",
            "probes.n_folds",
            "probes.regularisation",
            "probes.max_iter",
            "probes.tolerance",
            "heads.top",
            "circuit.extract",
        ),
        code=computes("paraphrases"),
    script:
        "../scripts/experiment.py"
