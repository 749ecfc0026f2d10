"""How a language model recalls facts: from a list of athletes to activations, probes, figures and a report."""

from snakemake.utils import min_version

min_version("9.13")


configfile: "config.yaml"


include: "rules/common.smk"


resource_scopes:
    gpu="local",


wildcard_constraints:
    study=re.escape(CONFIG.study),
    condition="|".join(CONFIG.activations.conditions),


rule all:
    default_target: True
    input:
        f"results/{CONFIG.study}/report.html",
        f"results/{CONFIG.study}/model/card.json",


include: "rules/model.smk"
include: "rules/athletes.smk"
include: "rules/recall.smk"
include: "rules/activations.smk"
include: "rules/direct.smk"
include: "rules/probes.smk"
include: "rules/interventions.smk"
include: "rules/report.smk"
