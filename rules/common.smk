"""What the rules share: each study's checked configuration, each rule's own section of it, and the digest of its code.

Nothing that is reached from here imports torch or transformers: every dry run and every cluster job reads it again.
"""

import json
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from factfinding.declarations import EXPERIMENTS, columns_digest, declarations
from factfinding.digest import Digests
from factfinding.errors import InputError
from factfinding.files import file_digest
from factfinding.model_folder import file_digests, model_digest
from factfinding.relation import STUDY_FACTS, of_the_study, spoken
from factfinding.studies import seeds_of, studies_of

SCRIPTS = Path(workflow.basedir) / "scripts"
DIGESTS = Digests(SCRIPTS, cache=Path(".snakemake/code-digests.json"))

try:
    DECLARED = declarations()
    STUDIES = studies_of(config, Path(workflow.basedir) / "studies")
    # Whoever starts a run is told at once what cannot work; its jobs, which read this file again, need not look again.
    if workflow.is_main_process:
        from factfinding.preflight import preflight

        for study in STUDIES.values():
            preflight(study)
except InputError as error:
    raise WorkflowError(str(error))

# Without a flag, GPU rules run one at a time here; `--resources gpu=N` lets N run.
workflow.global_resources.setdefault("gpu", 1)


def names(studies):
    """A pattern for the names of these studies, and for nothing where there are none."""
    return "|".join(re.escape(name) for name in studies) or "(?!)"


def of_source(*sources):
    """The studies whose model comes from one of these sources."""
    return [name for name, study in STUDIES.items() if study.model.source in sources]


def of(choose):
    """An input or parameter that depends on the study: `choose` is given its configuration."""
    return lambda wildcards: choose(STUDIES[wildcards.study])


def settings(*sections):
    """The rule's own sections as one canonical text: only a change in them makes the rule stale.

    `circuit.extract` is that key alone, and the others of its section may change.
    """

    def text(study):
        values, chosen = study.model_dump(mode="json"), {}
        for section in sections:
            name, _, key = section.partition(".")
            if key:
                chosen.setdefault(name, {})[key] = values[name][key]
            else:
                chosen[name] = values[name]
        return json.dumps(chosen, sort_keys=True)

    return of(text)


# How the model is run.
RUN = [f"compute.{key}" for key in ("dtype", "device", "batch_size")]
# How parts of its runs are replaced.
REPLACING = [f"compute.{key}" for key in ("engine", "products", "twin_rows")]
# The keys of the words in which everything is shown.
WORDS = [f"relation.{key}" for key in ("subject", "subjects", "answer", "answers")]
# Texts of the prompt that figures and pages quote.
QUOTED = ["relation.title", "relation.before"]


def code(*scripts):
    """Digest of a rule's script and of every project module that it imports; comments do not count."""
    digest = DIGESTS.of(*(SCRIPTS / script for script in scripts))
    DIGESTS.save()
    return digest


def computes(experiment):
    """Digest of what an experiment's results depend on: its `compute` and all that it imports, and its columns."""
    compute = f"factfinding/experiments/{experiment}/compute.py"
    columns = columns_digest(DECLARED.experiments[experiment])
    return f"{code('experiment.py', compute)} {columns}"


def megabytes(base):
    """Memory that grows with each attempt, so that a job killed for memory gets more the next time."""
    return lambda wildcards, attempt: base * attempt
