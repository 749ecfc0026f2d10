"""P3.2, P3.4: single neurons of the lookup's MLPs: what they are needed for, and what they tell.

neuron_effects_shard  P3.2: the effect of each neuron of some layers on every known fact, replaced one at a time  GPU
neuron_effects        P3.2: the shards put together, how alike different facts are, how few neurons carry one     no GPU
sport_neurons         P3.4: every neuron as a detector of each sport, and dossiers of the best                    GPU

A shard keeps its finished pieces (a prompt and a layer) under results/.shards/neuron_effects, by what they depend on: a
shard that was killed goes on from there. Shards are numbered, not named by layer, since the layers are known only when
circuit.yaml is there. Disk for P3.2: 90 bytes for each subject, fact, neuron and kind, in all three places together.

Config: neurons, sport_neurons, compute. Where no lookup is at the final name token (circuit.yaml), the tables are empty; neurons
that the configuration names get a dossier all the same. Time: ten seconds for the embedded model, some minutes on a GPU
for Pythia 2.8B.
"""


rule neuron_effects_shard:
    input:
        source="results/{study}/model/source.json",
        facts=of(facts),
        recall="results/{study}/tables/recall.csv",
        circuit="results/{study}/circuit.yaml",
    output:
        effects="results/{study}/neuron_effects/{shard}_effects.parquet",
        twin="results/{study}/neuron_effects/{shard}_twin.parquet",
        facts="results/{study}/neuron_effects/{shard}_facts.parquet",
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
        settings=settings("compute", "neurons"),
        code=code("neuron_effects_shard.py"),
        shards="results/.shards/neuron_effects",
    script:
        "../scripts/neuron_effects_shard.py"


rule neuron_effects:
    input:
        effects=shards("effects.parquet"),
        twins=shards("twin.parquet"),
        facts=shards("facts.parquet"),
    output:
        effects="results/{study}/tables/neuron_effects.parquet",
        twin="results/{study}/tables/neuron_effects_twin.csv",
        facts="results/{study}/tables/neuron_facts.parquet",
        correlations="results/{study}/tables/fact_correlations.csv",
        concentration="results/{study}/tables/effect_concentration.csv",
        pairs="results/{study}/tables/neuron_pairs.csv",
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
        settings=settings("neurons"),
        code=code("neuron_effects.py"),
    script:
        "../scripts/neuron_effects.py"


rule sport_neurons:
    input:
        source="results/{study}/model/source.json",
        activations="results/{study}/activations/full.h5",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
        texts=of(running_text),
    output:
        scan="results/{study}/tables/sport_neurons.csv",
        histograms="results/{study}/tables/sport_neuron_histograms.parquet",
        ablations="results/{study}/tables/sport_neuron_ablations.csv",
        cosines="results/{study}/tables/sport_neuron_cosines.csv",
        projections="results/{study}/tables/sport_neuron_projections.csv",
        # one file per sport, and which sports there are is known when it has run
        dossiers=directory("results/{study}/dossiers"),
        provenance="results/{study}/provenance/sport_neurons.json",
    log:
        "results/{study}/logs/sport_neurons.log",
    benchmark:
        "results/{study}/benchmarks/sport_neurons.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings("compute", "sport_neurons"),
        code=code("sport_neurons.py"),
    script:
        "../scripts/sport_neurons.py"
