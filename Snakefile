"""How a language model recalls facts: from a list of subjects to activations, probes, figures and a report."""

from snakemake.utils import min_version

min_version("9.13")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/choices.smk"


resource_scopes:
    gpu="local",


wildcard_constraints:
    study=names(STUDIES),
    condition="full|name_only|zero_shot",


rule all:
    default_target: True
    input:
        expand("results/{study}/report.html", study=STUDIES),
        expand("results/{study}/model/card.json", study=STUDIES),
        lambda wildcards: [
            path for study in STUDIES.values() for path in products(study)
        ],
        ["results/comparison/report.html"] if len(STUDIES) > 1 else [],


rule download:
    input:
        expand("results/{study}/model/source.json", study=of_source("hub")),
        expand(
            "results/{study}/model/checkpoints/index.json",
            study=with_checkpoints("hub"),
        ),
        expand("results/{study}/texts/texts.parquet", study=dataset_studies()),


include: "rules/model.smk"
include: "rules/subjects.smk"
include: "rules/activations.smk"
include: "rules/texts.smk"
include: "rules/report.smk"


# Each experiment has a file of rules of its name.
for path in sorted(Path(workflow.basedir).glob("rules/*.smk")):
    if path.stem in DECLARED.experiments:

        include: f"rules/{path.name}"


localrules:
    cost,


# What the studies would take, from their shapes and this machine's rates; computes nothing of them.
rule cost:
    log:
        "results/cost.log",
    conda:
        "envs/factfinding.yaml"
    threads: 64  # as many as --cores allows
    resources:
        gflops=0,  # of float32 products, in GFLOP/s; 0: measured here
        start=0,  # seconds until a job has started; 0: measured here
    params:
        studies=[
            (study.model_dump(mode="json"), plan(study)) for study in STUDIES.values()
        ],
    script:
        "scripts/cost.py"
