"""Figures, and the page that shows them and says what they show.

In: tables, the card, provenance. Out: figures/<name>.svg and .png, report.html. Config: which model and conditions
there are. No GPU; seconds; 2 MB.
"""

# Each figure is a module of scripts/factfinding/figures, drawn from these tables.
FIGURES = {
    "recall": {
        "recall": "results/{study}/tables/recall.csv",
        "recall_summary": "results/{study}/tables/recall_summary.csv",
    },
    "layer_probes": {
        "layer_probes": "results/{study}/tables/layer_probes.csv",
    },
    "direct_effects": {
        "direct_effects": "results/{study}/tables/direct_effects.csv",
    },
    "attention_roles": {
        "attention_roles": "results/{study}/tables/attention_roles.csv",
        "attention_athletes": "results/{study}/tables/attention_athletes.parquet",
    },
    "head_inputs": {
        "head_inputs": "results/{study}/tables/head_inputs.csv",
    },
    "head_probes": {
        "head_probes": "results/{study}/tables/head_probes.csv",
        "head_probe_layers": "results/{study}/tables/head_probe_layers.csv",
        "layer_probes": "results/{study}/tables/layer_probes.csv",
    },
    "residual_patching": {
        "residual_patching": "results/{study}/tables/residual_patching.csv",
    },
    "total_effects": {
        "total_effects": "results/{study}/tables/total_effects.parquet",
    },
    "circuit_scan": {
        "circuit_scan": "results/{study}/tables/circuit_scan.csv",
        "circuit": "results/{study}/tables/circuit.csv",
    },
    "ladder": {
        "ladder": "results/{study}/tables/ladder.csv",
    },
    "effective_model": {
        "effective_model": "results/{study}/tables/effective_model.csv",
        "effective_confusion": "results/{study}/tables/effective_confusion.csv",
    },
    "context": {
        "context": "results/{study}/tables/context.csv",
    },
    "probe_patching": {
        "probe_patching": "results/{study}/tables/probe_patching.csv",
    },
    "circuit_checks": {
        "circuit_checks": "results/{study}/tables/circuit_checks.csv",
    },
}
if CONFIG.model.source == "organism":
    FIGURES["training"] = {"training": "results/{study}/model/training.csv"}

# What the page tells about, as the rules that wrote it.
JOBS = [
    {
        "organism": "train_organism",
        "hub": "download_model",
        "folder": "adopt_model",
        "tiny": "tiny_model",
    }[CONFIG.model.source],
    "athletes",
    "prompts",
    "recall",
    *(f"activations_{condition}" for condition in CONFIG.activations.conditions),
    "layer_probes",
    "direct_effects",
    "head_probes",
    "readers",
    "total_effects",
    "circuit",
    "ladder",
    "effective_model",
    "context",
    "probe_patching",
    "model_card",
    *(f"figure_{figure}" for figure in FIGURES),
]


rule figure:
    input:
        unpack(lambda wildcards: FIGURES[wildcards.figure]),
    output:
        svg=report(
            "results/{study}/figures/{figure}.svg",
            caption="../resources/report/figure.rst",
            category="Figures",
            labels={"study": "{study}", "figure": "{figure}", "format": "SVG"},
        ),
        png=report(
            "results/{study}/figures/{figure}.png",
            caption="../resources/report/figure.rst",
            category="Figures",
            labels={"study": "{study}", "figure": "{figure}", "format": "PNG"},
        ),
        provenance="results/{study}/provenance/figure_{figure}.json",
    log:
        "results/{study}/logs/figure_{figure}.log",
    wildcard_constraints:
        figure="|".join(FIGURES),
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000),
        runtime=10,
    params:
        code=lambda wildcards: code(
            "figure.py", f"factfinding/figures/{wildcards.figure}.py"
        ),
    script:
        "../scripts/figure.py"


rule report:
    input:
        tables=sorted({path for tables in FIGURES.values() for path in tables.values()}),
        svg=expand("results/{{study}}/figures/{figure}.svg", figure=FIGURES),
        png=expand("results/{{study}}/figures/{figure}.png", figure=FIGURES),
        card="results/{study}/model/card.json",
        provenance=expand("results/{{study}}/provenance/{job}.json", job=JOBS),
        template="resources/report/page.html.j2",
        sections="resources/report/sections.yaml",
        captions="resources/report/figure.rst",
    output:
        report=report(
            "results/{study}/report.html",
            caption="../resources/report/report.rst",
            category="Report",
            labels={"study": "{study}"},
        ),
        provenance="results/{study}/provenance/report.json",
    log:
        "results/{study}/logs/report.log",
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000),
        runtime=10,
    params:
        code=code("report.py"),
    script:
        "../scripts/report.py"
