"""P1.5: the stages of recall at checkpoints of the training.

In: the checkpoints (kept by the training, further revisions of the hub, or folders of the user's), prompts of the known
subjects, the circuit. Out: tables/emergence.csv, emergence_layers.csv, emergence_halves.csv and emergence_order.csv, empty where there are no
checkpoints. Config: emergence, probes, compute. GPU; half a minute for the checkpoints of the embedded model.
"""


# Needs the network; run it by name where there is one: `snakemake download ...`
rule download_checkpoints:
    input:
        source="results/{study}/model/source.json",
    output:
        checkpoints="results/{study}/model/checkpoints/index.json",
        provenance="results/{study}/provenance/download_checkpoints.json",
    log:
        "results/{study}/logs/download_checkpoints.log",
    wildcard_constraints:
        study=names(with_checkpoints("hub")),
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000),
        runtime=1440,
    params:
        settings=settings(
            "model.id", "model.allow_pickle", "model.bos", "emergence.revisions"
        ),
        last_step=of(last_step),
        template=of(template),
        code=code("download_checkpoints.py"),
    script:
        "../scripts/download_checkpoints.py"


rule adopt_checkpoints:
    input:
        source="results/{study}/model/source.json",
    output:
        checkpoints="results/{study}/model/checkpoints/index.json",
        provenance="results/{study}/provenance/adopt_checkpoints.json",
    log:
        "results/{study}/logs/adopt_checkpoints.log",
    wildcard_constraints:
        study=names(with_checkpoints("folder")),
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000),
        runtime=240,
    params:
        settings=settings("model.allow_pickle", "model.bos", "emergence.folders"),
        content=of(checkpoints_content),
        last_step=of(last_step),
        template=of(template),
        code=code("adopt_checkpoints.py"),
    script:
        "../scripts/adopt_checkpoints.py"


rule emergence:
    input:
        checkpoints=of(checkpoints),
        prompts="results/{study}/prompts/full.parquet",
        candidates="results/{study}/prompts/candidates.csv",
        recall="results/{study}/tables/recall.csv",
        circuit="results/{study}/circuit.yaml",
    output:
        emergence="results/{study}/tables/emergence.csv",
        emergence_layers="results/{study}/tables/emergence_layers.csv",
        emergence_halves="results/{study}/tables/emergence_halves.csv",
        emergence_order="results/{study}/tables/emergence_order.csv",
        provenance="results/{study}/provenance/emergence.json",
    log:
        "results/{study}/logs/emergence.log",
    benchmark:
        "results/{study}/benchmarks/emergence.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(24000),
        runtime=240,
    params:
        settings=settings(
            *RUN,
            "emergence.subjects",
            "emergence.sampled_subjects",
            "emergence.seed",
            "probes.n_folds",
            "probes.regularisation",
            "probes.max_iter",
            "probes.tolerance",
        ),
        code=computes("emergence"),
    script:
        "../scripts/experiment.py"
