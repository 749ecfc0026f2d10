"""Inputs that depend on the study, as functions of its configuration; rules take them through `of`."""


def taught(study):
    """The subjects that the embedded model is taught; in the fictional world it makes its own."""
    return (
        []
        if study.organism.world == "fictional"
        else f"results/{study.study}/tables/subjects.csv"
    )


def model_content(study):
    """The digest of all that loading a user's model folder reads, through links: times and places do not count."""
    folder = Path(study.model.folder)
    return model_digest(file_digests(folder)) if folder.is_dir() else None


def gguf_file(study):
    """The user's GGUF file."""
    return study.model.file


def training_record(study):
    """How the embedded model was trained; others come without."""
    return (
        f"results/{study.study}/model/training.json"
        if study.model.source == "organism"
        else []
    )


# Which rule brings checkpoints that the configuration names, by the model's source.
CHECKPOINTS = {"hub": "download_checkpoints", "folder": "adopt_checkpoints"}


def with_checkpoints(source):
    """The studies whose model comes from this source with checkpoints of its training."""
    return [name for name in of_source(source) if STUDIES[name].emergence.named(source)]


def checkpoints(study):
    """The index of the checkpoints of the study's model; none where there are no checkpoints."""
    index = f"results/{study.study}/model/checkpoints/index.json"
    source = study.model.source
    return index if source == "organism" or study.emergence.named(source) else []


def last_step(study):
    """The step of the study's own model, where it comes from elsewhere with checkpoints."""
    return study.last_step


def checkpoints_content(study):
    """The digests of all that loading the user's checkpoints reads."""
    folders = [Path(folder) for folder in study.emergence.folders]
    return [
        model_digest(file_digests(folder)) if folder.is_dir() else None
        for folder in folders
    ]


def taken(choose):
    """A file that the user names, as an input; none where Snakemake would read its path as a pattern (`in_braces`)."""
    return of(lambda study: [] if has_braces(choose(study)) else choose(study))


def in_braces(**choices):
    """Path and digest of those of the user's files whose paths hold braces, by the names that they have as inputs. Snakemake
    takes braces in any input for wildcards, so these are parameters; Job.files has them beside the inputs.
    """

    def text(study):
        paths = {name: choose(study) for name, choose in choices.items()}
        held = {
            name: [path, file_digest(path) if os.path.isfile(path) else None]
            for name, path in paths.items()
            if has_braces(path)
        }
        return json.dumps(held, sort_keys=True)

    return of(text)


def has_braces(path):
    """Whether it is a path, and with braces."""
    return isinstance(path, str) and "{" in path


def activations_of(section):
    """The activation files of the conditions that a section names."""
    return of(
        lambda study: expand(
            "results/{study}/activations/{condition}.h5",
            study=study.study,
            condition=getattr(study, section).conditions,
        )
    )


def listings(wildcards):
    """What the jobs leave beside their shards that share the prompts of a condition."""
    return expand(
        "results/{study}/activations/{condition}_shard_{shard}.h5",
        study=wildcards.study,
        condition=wildcards.condition,
        shard=range(STUDIES[wildcards.study].activations.shards),
    )


def template(study):
    """The words that stand before every name, where prompts begin with them (`model.bos: none`)."""
    return (
        study.relation.shot + study.relation.before if study.model.bos == "none" else ""
    )


def subject_table(study):
    """The user's table, or the people whom the embedded model was trained on."""
    return study.subjects.table or f"results/{study.study}/model/athletes.csv"


def facts(study):
    """The facts that are asked; none of athletes in a study of something else."""
    if study.neurons.facts is not None:
        return study.neurons.facts
    if study.model.source == "organism":
        return f"results/{study.study}/model/facts.csv"
    return STUDY_FACTS if of_the_study(study.relation) else []


def shards(section, folder, part):
    """One kind of file of all the jobs that share the layers of the rule of that name."""
    return of(
        lambda study: expand(
            "results/{study}/{folder}/{shard}_{part}",
            study=study.study,
            folder=folder,
            shard=range(getattr(study, section).shards),
            part=part,
        )
    )


def own_corpus(study):
    """The documents that the embedded model was trained on; other models have none here."""
    own = f"results/{study.study}/model/corpus.txt"
    return own if study.model.source == "organism" else None


def running_text(study):
    """The text that is searched for what fires a neuron, if there is one."""
    return study.answer_neurons.texts or own_corpus(study) or []


def dataset_studies():
    """The studies whose running text is a data set of the hub."""
    return [name for name, study in STUDIES.items() if study.locality.dataset]


def local_texts(study):
    """The running text on which locality is measured."""
    if study.locality.texts:
        return study.locality.texts
    if study.locality.dataset:
        return f"results/{study.study}/texts/texts.parquet"
    return own_corpus(study) or "resources/running_text.txt"


def name_prompts(study):
    """The prompts of the conditions that the section `names` lists."""
    return expand(
        "results/{study}/prompts/{condition}.parquet",
        study=study.study,
        condition=study.names.conditions,
    )


# The declarations themselves: the page and the ledger are made anew when one is reworded.
DECLARATIONS = sorted(
    os.path.relpath(path)
    for path in [*EXPERIMENTS.glob("*/experiment.yaml"), *EXPERIMENTS.glob("*.yaml")]
)


def figures(study):
    """The figures of a study by name, each with its tables; some experiments need the embedded model."""
    return {
        name: figure.tables
        for experiment in DECLARED.of(study.model.source).values()
        for name, figure in experiment.figures.items()
    }


def table_path(name):
    """Where a table lies, with the wildcard of the study."""
    return f"results/{{study}}/{DECLARED.tables[name].path}"


def caption_of(wildcards):
    """A figure's caption in the words of the study's relation."""
    caption = DECLARED.figures[wildcards.figure][1].caption
    return spoken(caption, STUDIES[wildcards.study].relation)


def drawn_from(figure):
    """The tables of a figure, by name."""
    return {name: table_path(name) for name in DECLARED.figures[figure][1].tables}


def show_of(figure):
    """The module that draws a figure."""
    return f"factfinding/experiments/{DECLARED.figures[figure][0].name}/show.py"


def module_of(figure):
    """The same by its dotted name."""
    return ".".join(Path(show_of(figure)).with_suffix("").parts)


def figure_tables(study):
    """All tables that the page shows, or draws, or that a claim is judged on."""
    shown = {
        table
        for experiment in DECLARED.of(study.model.source).values()
        for table in [
            *experiment.shown,
            *(name for figure in experiment.figures.values() for name in figure.tables),
            *(name for claim in experiment.claims for name in claim.tables),
        ]
    }
    return expand(sorted(table_path(name) for name in shown), study=study.study)


def drawn(kind):
    """The files of all figures of a study, of one kind."""
    return lambda study: expand(
        "results/{study}/figures/{figure}.{kind}",
        study=study.study,
        figure=figures(study),
        kind=kind,
    )


def products(study):
    """What stays for the reader besides the report, each by name. Snakemake looks for what a target needs only where it
    makes the target anew: what is not asked for by name, and was removed by a job that failed, would stay away for good.
    """
    return [
        *figure_tables(study),
        *drawn("svg")(study),
        *drawn("png")(study),
        *records(study),
    ]


def records(study):
    """Where each job that the page tells about says what it did."""
    return expand(
        "results/{study}/provenance/{job}.json", study=study.study, job=recorded(study)
    )


def plan(study):
    """All jobs of a study by name."""
    downloads = ["download_texts"] if study.locality.dataset else []
    return [*downloads, *recorded(study), "report"]


def recorded(study):
    """The jobs that the page tells about, by name: all rules with a record of their own, but those of other studies'
    models, and what comes after the page."""
    source = study.model.source
    own = {SOURCES[source]}
    if study.emergence.named(source):
        own.add(CHECKPOINTS[source])
    without = {"report", "comparison", "download_texts"}
    without |= {*SOURCES.values(), *CHECKPOINTS.values()} - own
    found = {
        Path(path).stem
        for rule in workflow.rules
        for path in rule.output
        if Path(path).parent.name == "provenance"
        and Path(path).stem == rule.name
        and rule.name not in without
    }
    jobs = sorted(found)
    for condition in study.activations.conditions:
        jobs += [
            f"activations_shard_{condition}_{i}"
            for i in range(study.activations.shards)
        ]
        jobs.append(f"activations_{condition}")
    jobs += [f"total_effects_shard_{i}" for i in range(study.interventions.shards)]
    jobs += [f"neuron_effects_shard_{i}" for i in range(study.neurons.shards)]
    jobs += [f"figure_{figure}" for figure in figures(study)]
    return jobs


def model_threads(study):
    """Threads of a rule that computes with activations. A model of width 64 gains nothing from a second one, and jobs
    then run side by side; others take up to eight of the cores that there are."""
    return 1 if study.model.source in ("organism", "tiny") else 8
