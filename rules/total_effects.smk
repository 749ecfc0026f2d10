"""P2.7: every head, attention layer and MLP replaced at every position of the name and after it.

total_effects_shard  some of the layers: each node replaced, or those that a screen chooses  GPU
total_effects        the shards put together                                                 no GPU

In: the prompts of the known subjects. Out: tables/total_effects.parquet, tables/total_effects_screen.csv,
tables/total_effects_twin.csv. Config: interventions, compute. Ten seconds for the embedded model; most of an hour of a GPU for
Pythia 2.8B with every node replaced by values (interventions.screen: never), about a fourth of that with the screen.
"""


rule total_effects_shard:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
    output:
        effects="results/{study}/total_effects/{shard}_effects.parquet",
        twin="results/{study}/total_effects/{shard}_twin.parquet",
        provenance="results/{study}/provenance/total_effects_shard_{shard}.json",
    log:
        "results/{study}/logs/total_effects_shard_{shard}.log",
    benchmark:
        "results/{study}/benchmarks/total_effects_shard_{shard}.tsv"
    wildcard_constraints:
        shard=r"\d+",
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=480,
    params:
        settings=settings(*RUN, *REPLACING, "interventions"),
        code=code("total_effects_shard.py"),
    script:
        "../scripts/total_effects_shard.py"


rule total_effects:
    input:
        effects=shards("interventions", "total_effects", "effects.parquet"),
        twins=shards("interventions", "total_effects", "twin.parquet"),
    output:
        total_effects="results/{study}/tables/total_effects.parquet",
        total_effects_screen="results/{study}/tables/total_effects_screen.csv",
        total_effects_twin="results/{study}/tables/total_effects_twin.csv",
        provenance="results/{study}/provenance/total_effects.json",
    log:
        "results/{study}/logs/total_effects.log",
    benchmark:
        "results/{study}/benchmarks/total_effects.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        settings=settings(
            "interventions.screen_below",
            "interventions.screen_sample",
            "interventions.seed",
        ),
        code=computes("total_effects"),
    script:
        "../scripts/experiment.py"
