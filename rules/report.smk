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
    "mlp_norms": {
        "mlp_norms": "results/{study}/tables/mlp_norms.csv",
        "circuit": "results/{study}/tables/circuit.csv",
    },
    "linear_structure": {
        "linear_structure": "results/{study}/tables/linear_structure.csv",
        "circuit": "results/{study}/tables/circuit.csv",
    },
    "orthogonal_remainder": {
        "orthogonal_remainder": "results/{study}/tables/orthogonal_remainder.csv",
    },
    "circuit_checks": {
        "circuit_checks": "results/{study}/tables/circuit_checks.csv",
    },
    "mlp_paths": {
        "mlp_paths": "results/{study}/tables/mlp_paths.csv",
    },
    "neuron_effects": {
        "neuron_pairs": "results/{study}/tables/neuron_pairs.csv",
        "neuron_facts": "results/{study}/tables/neuron_facts.parquet",
        "neuron_effects_twin": "results/{study}/tables/neuron_effects_twin.csv",
    },
    "fact_correlations": {
        "fact_correlations": "results/{study}/tables/fact_correlations.csv",
    },
    "effect_concentration": {
        "effect_concentration": "results/{study}/tables/effect_concentration.csv",
    },
    "sport_neurons": {
        "sport_neurons": "results/{study}/tables/sport_neurons.csv",
        "sport_neuron_histograms": "results/{study}/tables/sport_neuron_histograms.parquet",
        "sport_neuron_ablations": "results/{study}/tables/sport_neuron_ablations.csv",
    },
    "dossier": {
        "sport_neuron_cosines": "results/{study}/tables/sport_neuron_cosines.csv",
        "sport_neuron_projections": "results/{study}/tables/sport_neuron_projections.csv",
    },
    "nonlinear_excess": {
        "nonlinear_excess": "results/{study}/tables/nonlinear_excess.csv",
        "nonlinear_excess_athletes": "results/{study}/tables/nonlinear_excess_athletes.parquet",
        "nonlinear_excess_neurons": "results/{study}/tables/nonlinear_excess_neurons.parquet",
    },
    "effective_probes": {
        "effective_probes": "results/{study}/tables/effective_probes.csv",
    },
    "toy_models": {
        "toy_models": "results/{study}/tables/toy_models.csv",
        "toy_summary": "results/{study}/tables/toy_summary.csv",
        "toy_neurons": "results/{study}/tables/toy_neurons.parquet",
        "toy_verdict": "results/{study}/tables/toy_verdict.csv",
    },
    "locality": {
        "locality": "results/{study}/tables/locality.csv",
        "locality_tokens": "results/{study}/tables/locality_tokens.csv",
        "locality_values": "results/{study}/tables/locality_values.parquet",
    },
    "toy_illustrations": {
        "toy_illustrations": "results/{study}/tables/toy_illustrations.parquet",
    },
    "training": {
        "training": "results/{study}/model/training.csv",
    },
}

# What the page tells about, as the rules that wrote it, besides the figures, the activations and the model.
JOBS = [
    "ledger",
    "athletes",
    "prompts",
    "recall",
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
    "effective_lookup",
    "mlp_paths",
    "neuron_effects",
    "sport_neurons",
    "name_structure",
    "toy_models",
    "locality",
    "model_card",
]

# What every page is made of, and what sorts and filters its tables.
SHARED = expand(
    "resources/report/{part}", part=["base.html.j2", "parts.html.j2", "style.css"]
)
SORTABLE = expand(
    "resources/report/{part}", part=["tables.js", "vendor/datatables.min.js"]
)

SOURCES = {
    "organism": "train_organism",
    "hub": "download_model",
    "folder": "adopt_model",
    "tiny": "tiny_model",
}


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
    benchmark:
        "results/{study}/benchmarks/figure_{figure}.tsv"
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


rule ledger:
    input:
        claims="resources/claims.yaml",
        tables=of(figure_tables),
    output:
        ledger=report(
            "results/{study}/tables/ledger.csv",
            caption="../resources/report/ledger.rst",
            category="Ledger of claims",
            labels={"study": "{study}"},
        ),
        provenance="results/{study}/provenance/ledger.json",
    log:
        "results/{study}/logs/ledger.log",
    benchmark:
        "results/{study}/benchmarks/ledger.tsv"
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000),
        runtime=10,
    params:
        code=code("ledger.py"),
    script:
        "../scripts/ledger.py"


rule report:
    input:
        tables=of(figure_tables),
        ledger="results/{study}/tables/ledger.csv",
        svg=of(drawn("svg")),
        png=of(drawn("png")),
        card="results/{study}/model/card.json",
        provenance=of(records),
        dossiers="results/{study}/dossiers",
        template="resources/report/page.html.j2",
        shared=SHARED,
        scripts=SORTABLE,
        marked="resources/report/dossier.html.j2",
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
    benchmark:
        "results/{study}/benchmarks/report.tsv"
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


rule comparison:
    input:
        ledgers=expand("results/{study}/tables/ledger.csv", study=STUDIES),
        cards=expand("results/{study}/model/card.json", study=STUDIES),
        template="resources/report/comparison.html.j2",
        shared=SHARED,
    output:
        ledger=report(
            "results/comparison/ledger.csv",
            caption="../resources/report/comparison.rst",
            category="Ledger of claims",
            labels={"study": "all"},
        ),
        report=report(
            "results/comparison/report.html",
            caption="../resources/report/comparison.rst",
            category="Report",
            labels={"study": "all, side by side"},
        ),
        provenance="results/comparison/provenance/comparison.json",
    log:
        "results/comparison/logs/comparison.log",
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000),
        runtime=10,
    params:
        studies=list(STUDIES),
        code=code("comparison.py"),
    script:
        "../scripts/comparison.py"
