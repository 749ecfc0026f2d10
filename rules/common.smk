"""What the rules share: the checked configuration, each rule's own section of it, and the digest of its code.

Nothing that is reached from here imports torch or transformers: every dry run and every cluster job reads it again.
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from factfinding.config import Config, validate
from factfinding.digest import Digests
from factfinding.errors import InputError

SCRIPTS = Path(workflow.basedir) / "scripts"
DIGESTS = Digests(SCRIPTS, cache=Path(".snakemake/code-digests.json"))

try:
    CONFIG = validate(config, Config)
except InputError as error:
    raise WorkflowError(str(error))

# Without a flag, GPU rules run one at a time here; `--resources gpu=N` lets N run.
workflow.global_resources.setdefault("gpu", 1)


def settings(*sections):
    """The rule's own sections as one canonical text: only a change in them makes the rule stale.

    `circuit.extract` is that key alone, and the others of its section may change.
    """
    values, chosen = CONFIG.model_dump(mode="json"), {}
    for section in sections:
        name, _, key = section.partition(".")
        if key:
            chosen.setdefault(name, {})[key] = values[name][key]
        else:
            chosen[name] = values[name]
    return json.dumps(chosen, sort_keys=True)


def code(*scripts):
    """Digest of a rule's script and of every project module that it imports; comments do not count."""
    digest = DIGESTS.of(*(SCRIPTS / script for script in scripts))
    DIGESTS.save()
    return digest


def megabytes(base):
    """Memory that grows with each attempt, so that a job killed for memory gets more the next time."""
    return lambda wildcards, attempt: base * attempt
