"""P2.7: every head, attention layer and MLP replaced at every position of the name and after it.

In: the prompts of the known subjects. Out: tables/total_effects.parquet, tables/total_effects_screen.csv. Config:
interventions, compute. GPU; ten seconds for the embedded model; most of an hour for Pythia 2.8B with every node replaced
(interventions.screen: never), about a fourth of that with the screen.
"""


rule total_effects:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
    output:
        total_effects="results/{study}/tables/total_effects.parquet",
        total_effects_screen="results/{study}/tables/total_effects_screen.csv",
        provenance="results/{study}/provenance/total_effects.json",
    log:
        "results/{study}/logs/total_effects.log",
    benchmark:
        "results/{study}/benchmarks/total_effects.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=480,
    params:
        settings=settings("compute", "interventions"),
        code=computes("total_effects"),
    script:
        "../scripts/experiment.py"
