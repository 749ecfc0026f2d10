"""P3.2: which facts the model knows, asked once for all shards of the neuron effects.

In: the model, the facts, recall. Out: neuron_facts.parquet, and the facts as prompts. Config: compute, neurons.facts,
neurons.subjects, neurons.first, neurons.asked_subjects, neurons.seed, recall.known, recall.known_above. GPU. Disk: 1 kB for each fact. Time: a forward pass per
fact.
"""


rule neuron_facts:
    input:
        source="results/{study}/model/source.json",
        facts=taken(facts),
        recall="results/{study}/tables/recall.csv",
    output:
        neuron_facts="results/{study}/tables/neuron_facts.parquet",
        fact_prompts="results/{study}/prompts/fact_prompts.parquet",
        provenance="results/{study}/provenance/neuron_facts.json",
    log:
        "results/{study}/logs/neuron_facts.log",
    benchmark:
        "results/{study}/benchmarks/neuron_facts.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        settings=settings(
            *RUN,
            "neurons.subjects",
            "neurons.facts",
            "neurons.first",
            "neurons.asked_subjects",
            "neurons.seed",
            "recall.known",
            "recall.known_above",
        ),
        code=computes("neuron_facts"),
        files=in_braces(facts=facts),
    script:
        "../scripts/experiment.py"
