"""P2.7-P2.11: the circuit taken apart: what is replaced, what is left, and what that says of which layers do what.

total_effects    P2.7: every node replaced at every position; the borders of the circuit          GPU
circuit          which layers do what: what the configuration fixes, and a proposal for the rest  no GPU
ladder           P2.8: the circuit simplified step by step                                        GPU
effective_model  P2.9: tables over tokens, the lookup's MLPs and a probe, as a file               GPU
context          P2.10: what comes before a name                                                  GPU
probe_patching   P2.11: whether the probed directions are used                                    GPU

Config: interventions, circuit, compute, probes. Time: half a minute of computing in all for the embedded model, an
hour on a GPU for Pythia 2.8B, of which total_effects takes most. Disk: the effective model, 0.5 MB; 1 GB for Pythia.
"""


rule total_effects:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
    output:
        total="results/{study}/tables/total_effects.parquet",
        residual="results/{study}/tables/residual_patching.csv",
        scan="results/{study}/tables/circuit_scan.csv",
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
        code=code("total_effects.py"),
    script:
        "../scripts/total_effects.py"


rule circuit:
    input:
        total="results/{study}/tables/total_effects.parquet",
        residual="results/{study}/tables/residual_patching.csv",
        scan="results/{study}/tables/circuit_scan.csv",
    output:
        circuit="results/{study}/circuit.yaml",
        table="results/{study}/tables/circuit.csv",
        provenance="results/{study}/provenance/circuit.json",
    log:
        "results/{study}/logs/circuit.log",
    benchmark:
        "results/{study}/benchmarks/circuit.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000),
        runtime=10,
    params:
        settings=settings("circuit"),
        code=code("circuit.py"),
    script:
        "../scripts/circuit.py"


rule ladder:
    input:
        source="results/{study}/model/source.json",
        full="results/{study}/prompts/full.parquet",
        name_only="results/{study}/prompts/name_only.parquet",
        recall="results/{study}/tables/recall.csv",
        candidates="results/{study}/prompts/candidates.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
    output:
        ladder="results/{study}/tables/ladder.csv",
        provenance="results/{study}/provenance/ladder.json",
    log:
        "results/{study}/logs/ladder.log",
    benchmark:
        "results/{study}/benchmarks/ladder.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=240,
    params:
        settings=settings("compute", "interventions"),
        code=code("ladder.py"),
    script:
        "../scripts/ladder.py"


rule effective_model:
    input:
        source="results/{study}/model/source.json",
        full="results/{study}/prompts/full.parquet",
        name_only="results/{study}/prompts/name_only.parquet",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
    output:
        model="results/{study}/effective_model.safetensors",
        accuracy="results/{study}/tables/effective_model.csv",
        confusion="results/{study}/tables/effective_confusion.csv",
        provenance="results/{study}/provenance/effective_model.json",
    log:
        "results/{study}/logs/effective_model.log",
    benchmark:
        "results/{study}/benchmarks/effective_model.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings("compute", "interventions"),
        code=code("effective_model.py"),
    script:
        "../scripts/effective_model.py"


rule context:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
    output:
        context="results/{study}/tables/context.csv",
        provenance="results/{study}/provenance/context.json",
    log:
        "results/{study}/logs/context.log",
    benchmark:
        "results/{study}/benchmarks/context.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings("compute", "interventions"),
        code=code("context.py"),
    script:
        "../scripts/context.py"


rule probe_patching:
    input:
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        readers="results/{study}/readers.safetensors",
        circuit="results/{study}/circuit.yaml",
    output:
        patching="results/{study}/tables/probe_patching.csv",
        provenance="results/{study}/provenance/probe_patching.json",
    log:
        "results/{study}/logs/probe_patching.log",
    benchmark:
        "results/{study}/benchmarks/probe_patching.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=240,
    params:
        settings=settings("compute", "interventions"),
        code=code("probe_patching.py"),
    script:
        "../scripts/probe_patching.py"
