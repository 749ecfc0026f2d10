"""P3.3, P3.5-P3.8: what the MLPs do that look the fact up.

effective_lookup  P3.3 and P3.5: the effective model on all pairings of names: what neurons make, and what probes read  GPU
name_structure    P3.6-P3.8: known and unknown names, swapped names, the orthogonal remainder                            GPU

Config: lookup, names, compute, probes. Each rule needs a lookup at the final name token (circuit.yaml) and writes empty tables
where there is none.
"""


rule effective_lookup:
    input:
        model="results/{study}/effective_model.safetensors",
        accuracy="results/{study}/tables/effective_model.csv",
        prompts="results/{study}/prompts/name_only.parquet",
        recall="results/{study}/tables/recall.csv",
    output:
        excess="results/{study}/tables/nonlinear_excess.csv",
        athletes="results/{study}/tables/nonlinear_excess_athletes.parquet",
        neurons="results/{study}/tables/nonlinear_excess_neurons.parquet",
        probes="results/{study}/tables/effective_probes.csv",
        provenance="results/{study}/provenance/effective_lookup.json",
    log:
        "results/{study}/logs/effective_lookup.log",
    benchmark:
        "results/{study}/benchmarks/effective_lookup.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=120,
    params:
        settings=settings("compute", "lookup", "probes"),
        code=code("effective_lookup.py"),
    script:
        "../scripts/effective_lookup.py"


rule name_structure:
    input:
        source="results/{study}/model/source.json",
        prompts=of(name_prompts),
        recall="results/{study}/tables/recall.csv",
        neurons="results/{study}/tables/sport_neurons.csv",
    output:
        norms="results/{study}/tables/mlp_norms.csv",
        linear="results/{study}/tables/linear_structure.csv",
        remainder="results/{study}/tables/orthogonal_remainder.csv",
        provenance="results/{study}/provenance/name_structure.json",
    log:
        "results/{study}/logs/name_structure.log",
    benchmark:
        "results/{study}/benchmarks/name_structure.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(32000),
        runtime=120,
    params:
        settings=settings("compute", "names"),
        code=code("name_structure.py"),
    script:
        "../scripts/name_structure.py"
