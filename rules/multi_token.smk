"""P1.1: which attributes can be read at the final name token, and replaced there one at a time.

In: the facts, prompts, recall, activations, the circuit, the model. Out: tables/attributes.csv, attribute_probes.csv,
attribute_angles.csv, attribute_swaps.csv, attribute_specificity.csv, and the facts as prompts. Config: multi_token, neurons.facts,
recall (known), probes (folds, fitting), compute. GPU. Time: a forward pass per fact, some hundred regressions, and for each
attribute and question a partial run of the swapped subjects.
"""


rule multi_token:
    input:
        source="results/{study}/model/source.json",
        facts=taken(facts),
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        recall="results/{study}/tables/recall.csv",
        circuit="results/{study}/circuit.yaml",
    output:
        attributes="results/{study}/tables/attributes.csv",
        attribute_prompts="results/{study}/prompts/attribute_prompts.parquet",
        attribute_probes="results/{study}/tables/attribute_probes.csv",
        attribute_angles="results/{study}/tables/attribute_angles.csv",
        attribute_swaps="results/{study}/tables/attribute_swaps.csv",
        attribute_specificity="results/{study}/tables/attribute_specificity.csv",
        provenance="results/{study}/provenance/multi_token.json",
    log:
        "results/{study}/logs/multi_token.log",
    benchmark:
        "results/{study}/benchmarks/multi_token.tsv"
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
            "multi_token",
            "neurons.facts",
            "recall.known",
            "recall.known_above",
            "probes.n_folds",
            "probes.regularisation",
            "probes.max_iter",
            "probes.tolerance",
        ),
        code=computes("multi_token"),
        files=in_braces(facts=facts),
    script:
        "../scripts/experiment.py"
