"""P2.6: where in the layers the answer can be read, beside what the name's spelling alone gives away.

In: activations of each condition, prompts, recall. Out: layer_probes.csv, layer_probe_subjects.parquet. Config: probes. No
GPU. Time: half a minute for the embedded model; tens of minutes for a width of 2560.
"""


rule layer_probes:
    input:
        activations=activations_of("probes"),
        prompts="results/{study}/prompts/full.parquet",
        recall="results/{study}/tables/recall.csv",
        source="results/{study}/model/source.json",
    output:
        layer_probes="results/{study}/tables/layer_probes.csv",
        layer_probe_subjects="results/{study}/tables/layer_probe_subjects.parquet",
        provenance="results/{study}/provenance/layer_probes.json",
    log:
        "results/{study}/logs/layer_probes.log",
    benchmark:
        "results/{study}/benchmarks/layer_probes.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        mem_mb=megabytes(8000),
        runtime=240,
    params:
        settings=settings("probes"),
        code=computes("layer_probes"),
    script:
        "../scripts/experiment.py"
