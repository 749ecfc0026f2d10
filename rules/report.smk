"""Figures, and the page that shows them and says what they show.

In: tables, prompts, the card, provenance. Out: figures/<name>.svg and .png, report.html. Config: which model and
conditions there are, report.subjects. No GPU; seconds; 2 MB.
"""

# What every page is made of, and what sorts and filters its tables.
SHARED = expand(
    "resources/report/{part}", part=["base.html.j2", "parts.html.j2", "style.css"]
)
SORTABLE = expand(
    "resources/report/{part}",
    part=["tables.js", "places.js", "vendor/datatables.min.js"],
)

# The tables that a study's conclusions are drawn from (factfinding/conclusions.py).
CONCLUDED = [
    "recall_summary",
    "known_filters",
    "layer_probes",
    "circuit",
    "circuit_checks",
    "total_effects",
    "residual_patching",
    "effective_model",
]

SOURCES = {
    "organism": "train_organism",
    "hub": "download_model",
    "folder": "adopt_model",
    "gguf": "convert_gguf",
    "tiny": "tiny_model",
}


rule figure:
    input:
        unpack(lambda wildcards: drawn_from(wildcards.figure)),
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
        figure="|".join(DECLARED.figures),
    conda:
        "../envs/factfinding.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000),
        runtime=10,
    params:
        caption=caption_of,
        settings=settings(*WORDS, *QUOTED),
        show=lambda wildcards: module_of(wildcards.figure),
        code=lambda wildcards: code("figure.py", show_of(wildcards.figure)),
    script:
        "../scripts/figure.py"


rule ledger:
    input:
        declared=DECLARATIONS,
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
        settings=settings(*WORDS),
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
        source="results/{study}/model/source.json",
        prompts="results/{study}/prompts/full.parquet",
        neurons="results/{study}/tables/neuron_effects.parquet",
        probed="results/{study}/tables/layer_probe_subjects.parquet",
        planted="resources/planted.json",
        provenance=of(records),
        dossiers="results/{study}/dossiers",
        template="resources/report/page.html.j2",
        shared=SHARED,
        scripts=SORTABLE,
        marked="resources/report/dossier.html.j2",
        declared=DECLARATIONS,
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
        settings=settings("report.subjects", *WORDS, *QUOTED),
        code=code("report.py"),
    script:
        "../scripts/report.py"


rule comparison:
    input:
        ledgers=expand("results/{study}/tables/ledger.csv", study=STUDIES),
        cards=expand("results/{study}/model/card.json", study=STUDIES),
        tables=[
            path
            for name in CONCLUDED
            for path in expand(table_path(name), study=STUDIES)
        ],
        declared=DECLARATIONS,
        template="resources/report/comparison.html.j2",
        shared=SHARED,
    output:
        ledger=report(
            "results/comparison/ledger.csv",
            caption="../resources/report/comparison.rst",
            category="Ledger of claims",
            labels={"study": "all"},
        ),
        seeds=report(
            "results/comparison/seeds.csv",
            caption="../resources/report/seeds.rst",
            category="Ledger of claims",
            labels={"study": "seeds together"},
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
        studies={
            name: study.relation.model_dump(
                include={"subject", "subjects", "answer", "answers"}
            )
            for name, study in STUDIES.items()
        },
        seeds=seeds_of(STUDIES),
        code=code("comparison.py"),
    script:
        "../scripts/comparison.py"
