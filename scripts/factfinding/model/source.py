"""Which model a study uses: where its files lie and what they are, as one small JSON that every rule reads first."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factfinding.errors import InputError
from factfinding.inputs import Inputs
from factfinding.model.anatomy import Anatomy, check_folder, load
from factfinding.model_folder import SETTINGS, file_digests, model_digest


def describe(
    folder: Path,
    *,
    kind: str,
    id: str | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
    bos: str = "auto",
    template: str = "",
) -> dict[str, Any]:
    """What source.json says: kind, id, revision, folder, bos, files with their digests, and one digest of all of them.

    A `bos` that is not the tokenizer's own is part of the digest: what is kept under it depends on it. So is, where it is
    none, `template`, the words that stand before every name, whose first token takes its place.
    Raises InputError for a folder that is no usable model. The folder is given relative to the working directory where
    it lies below it, so that a project that is moved still finds its model.
    """
    check_folder(folder, allow_pickle=allow_pickle)
    files = file_digests(folder)
    bare = {"template": template} if bos == "none" else {}
    own_bos = [] if bos == "auto" else [bos, *bare.values()]
    return {
        "kind": kind,
        "id": id,
        "revision": revision,
        "folder": _relative(folder),
        "allow_pickle": allow_pickle,
        "bos": bos,
        **bare,
        "digest": model_digest(files, *own_bos),
        "files": files,
    }


def _relative(folder: Path) -> str:
    here = Path.cwd().resolve()
    resolved = folder.resolve()
    return os.path.relpath(resolved, here) if resolved.is_relative_to(here) else str(resolved)


def check_unchanged(source: dict[str, Any]) -> None:
    """Raise InputError, naming the file, where a model's files are not those that source.json was written of.

    All results of a study are of one model. A file that was changed, added or removed while source.json stayed as it is
    would put a second one among them.
    """
    folder, then = Path(source["folder"]), source["files"]
    now = file_digests(folder) if folder.is_dir() else {}
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            found = (
                "no such file" if name not in now else "a new file" if name not in then else "other content"
            )
            raise InputError(
                folder / name,
                f"{found} since the study's model was described",
                "the files of which model/source.json was written; put them back, or remove model/source.json and run "
                "the same command again: everything is then computed for the model as it is now",
            )


def load_source(source: dict[str, Any], compute: Any, log: Callable[[str], None]) -> Anatomy:
    """The model that source.json describes, as the section `compute` (dtype, device) says; the log is told where it runs.

    Raises as `anatomy.load`, and InputError for files that have changed since (`check_unchanged`).
    """
    check_unchanged(source)
    anatomy = load(
        source["folder"],
        dtype=compute.dtype,
        device=compute.device,
        allow_pickle=source["allow_pickle"],
        bos=source.get("bos", "auto"),
        template=source.get("template", ""),
    )
    log(f"model {source['folder']} on {anatomy.device} in {compute.dtype}")
    return anatomy


def anatomy_of(inputs: Inputs) -> Anatomy:
    """The study's model, on the configured device. Raises as `anatomy.load`."""
    return inputs.once("anatomy", lambda: load_source(inputs.source, inputs.settings.compute, inputs.log))


def weights_of(inputs: Inputs) -> Anatomy:
    """The study's model on the CPU, for what reads its weights and does not run it, and so claims no GPU."""

    def read() -> Anatomy:
        return load_source(inputs.source, _OnCpu(dtype=inputs.settings.compute.dtype), inputs.log)

    return inputs.once("anatomy", read)


@dataclass(frozen=True, kw_only=True)
class _OnCpu:
    dtype: str
    device: str = "cpu"


def download(id: str, revision: str, folder: Path, *, allow_pickle: bool) -> Path:
    """Fetch a model from the Hugging Face hub into `folder` (the only function of the project that uses the network).

    Raises InputError that says what to put where, when the hub cannot be reached or does not have it.
    """
    from huggingface_hub import snapshot_download

    patterns = [*SETTINGS, "*.safetensors", *(["*.bin"] if allow_pickle else [])]
    try:
        snapshot_download(id, revision=revision, local_dir=folder, allow_patterns=patterns)
    except (
        Exception
    ) as error:  # the hub's client raises a score of kinds, all meaning that the files did not come
        raise InputError(
            f"model.id {id!r}, revision {revision!r}",
            f"no download ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'})",
            "a network, or the model's files (config.json, tokenizer.json, *.safetensors) copied into a folder of this "
            "machine and `model: {source: folder, folder: THAT_FOLDER}` in the configuration",
        ) from error
    return folder
