"""P3.2: the effect of every neuron of the lookup's MLPs on every known fact.

neuron_effects_shard  some of the layers: each neuron replaced, one at a time, or those that a screen chooses  GPU
neuron_effects        the shards put together                                  no GPU

In: the model, what neuron_facts asked, recall, circuit.yaml. Out: neuron_effects.parquet, neuron_effects_twin.csv,
neuron_effects_screen.csv. Config: neurons (but its facts and subjects), compute. A shard keeps its finished pieces (a prompt
and a layer) under results/.shards/neuron_effects, by what they depend on: a shard that was killed goes on from there. Shards
are numbered, not named by layer, since the layers are known only when circuit.yaml is there. Where no lookup is at the final name token, the tables are empty. Disk: 90 bytes
for each subject, fact, neuron and kind, in all three places together. Time: ten seconds for the embedded model, some
minutes on a GPU for Pythia 2.8B.
"""


rule neuron_effects_shard:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/fact_prompts.parquet",
        recall="results/{study}/tables/recall.csv",
        circuit="results/{study}/circuit.yaml",
    output:
        effects="results/{study}/neuron_effects/{shard}_effects.parquet",
        twin="results/{study}/neuron_effects/{shard}_twin.parquet",
        run="results/{study}/neuron_effects/{shard}_run.parquet",
        provenance="results/{study}/provenance/neuron_effects_shard_{shard}.json",
    log:
        "results/{study}/logs/neuron_effects_shard_{shard}.log",
    benchmark:
        "results/{study}/benchmarks/neuron_effects_shard_{shard}.tsv"
    wildcard_constraints:
        shard=r"\d+",
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(32000),
        runtime=720,
    params:
        settings=settings(
            *RUN,
            "neurons.subjects",
            "neurons.draws",
            "neurons.engine",
            "neurons.products",
            "neurons.shards",
            "neurons.tolerance",
            "neurons.twin_rows",
            "neurons.screen",
            "neurons.screen_largest",
            "neurons.screen_sample",
            "neurons.seed",
        ),
        code=code("neuron_effects_shard.py"),
        shards="results/.shards/neuron_effects",
    script:
        "../scripts/neuron_effects_shard.py"


rule neuron_effects:
    input:
        effects=shards("neurons", "neuron_effects", "effects.parquet"),
        twins=shards("neurons", "neuron_effects", "twin.parquet"),
        runs=shards("neurons", "neuron_effects", "run.parquet"),
        facts="results/{study}/tables/neuron_facts.parquet",
    output:
        neuron_effects="results/{study}/tables/neuron_effects.parquet",
        neuron_effects_twin="results/{study}/tables/neuron_effects_twin.csv",
        neuron_effects_screen="results/{study}/tables/neuron_effects_screen.csv",
        provenance="results/{study}/provenance/neuron_effects.json",
    log:
        "results/{study}/logs/neuron_effects.log",
    benchmark:
        "results/{study}/benchmarks/neuron_effects.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        code=computes("neuron_effects"),
    script:
        "../scripts/experiment.py"
