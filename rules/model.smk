"""The model of the study, from one of five sources, and its card.

In: nothing (organism in its fictional world, tiny), the checked subjects (organism on real subjects), the hub, or a
folder. Out: results/<study>/model/source.json, which says where the weights lie and what they are, and card.json, what
was measured on them. Config: model, organism, compute. GPU: the card. Time: training takes 3-5 minutes of one core
(1.5 MB on disk, and 1 MB for each of organism.checkpoints); a 2.8B model is 5.7 GB to download.
"""


rule train_organism:
    input:
        subjects=of(taught),
    output:
        source="results/{study}/model/source.json",
        weights="results/{study}/model/model.safetensors",
        config="results/{study}/model/config.json",
        tokenizer="results/{study}/model/tokenizer.json",
        tokenizer_config="results/{study}/model/tokenizer_config.json",
        training="results/{study}/model/training.csv",
        record="results/{study}/model/training.json",
        subjects="results/{study}/model/athletes.csv",
        facts="results/{study}/model/facts.csv",
        corpus="results/{study}/model/corpus.txt",
        checkpoints="results/{study}/model/checkpoints/index.json",
        provenance="results/{study}/provenance/train_organism.json",
    log:
        "results/{study}/logs/train_organism.log",
    benchmark:
        "results/{study}/benchmarks/train_organism.tsv"
    wildcard_constraints:
        study=names(of_source("organism")),
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(4000),
        runtime=30,
    params:
        settings=settings("organism"),
        code=code("train_organism.py"),
    script:
        "../scripts/train_organism.py"


# Needs the network; run it by name where there is one: `snakemake download ...`
rule download_model:
    output:
        source="results/{study}/model/source.json",
        provenance="results/{study}/provenance/download_model.json",
    log:
        "results/{study}/logs/download_model.log",
    wildcard_constraints:
        study=names(of_source("hub")),
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000),
        runtime=240,
    params:
        settings=settings(
            "model.id", "model.revision", "model.allow_pickle", "model.bos"
        ),
        template=of(template),
        code=code("download_model.py"),
    script:
        "../scripts/download_model.py"


rule adopt_model:
    output:
        source="results/{study}/model/source.json",
        provenance="results/{study}/provenance/adopt_model.json",
    log:
        "results/{study}/logs/adopt_model.log",
    wildcard_constraints:
        study=names(of_source("folder")),
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000),
        runtime=60,
    params:
        settings=settings("model.folder", "model.allow_pickle", "model.bos"),
        content=of(model_content),
        template=of(template),
        code=code("adopt_model.py"),
    script:
        "../scripts/adopt_model.py"


rule convert_gguf:
    input:
        file=of(gguf_file),
    output:
        source="results/{study}/model/source.json",
        provenance="results/{study}/provenance/convert_gguf.json",
    log:
        "results/{study}/logs/convert_gguf.log",
    wildcard_constraints:
        study=names(of_source("gguf")),
    conda:
        "../envs/real-model.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(8000),
        runtime=60,
    params:
        settings=settings("model.bos"),
        template=of(template),
        code=code("convert_gguf.py"),
    script:
        "../scripts/convert_gguf.py"


rule tiny_model:
    input:
        subjects="results/{study}/tables/subjects.csv",
    output:
        source="results/{study}/model/source.json",
        provenance="results/{study}/provenance/tiny_model.json",
    log:
        "results/{study}/logs/tiny_model.log",
    wildcard_constraints:
        study=names(of_source("tiny")),
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000),
        runtime=10,
    params:
        settings=settings("model.family", "model.bos"),
        template=of(template),
        code=code("tiny_model.py"),
    script:
        "../scripts/tiny_model.py"


rule model_card:
    input:
        source="results/{study}/model/source.json",
        summary="results/{study}/tables/recall_summary.csv",
        probes="results/{study}/tables/layer_probes.csv",
        checks="results/{study}/tables/circuit_checks.csv",
        training=of(training_record),
    output:
        card="results/{study}/model/card.json",
        provenance="results/{study}/provenance/model_card.json",
    log:
        "results/{study}/logs/model_card.log",
    benchmark:
        "results/{study}/benchmarks/model_card.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: of(model_threads)
    resources:
        gpu=1,
        mem_mb=megabytes(16000),
        runtime=60,
    params:
        settings=settings(*RUN),
        code=code("model_card.py"),
    script:
        "../scripts/model_card.py"
