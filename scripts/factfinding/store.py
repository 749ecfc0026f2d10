"""The HDF5 activation store: one file per condition, readable with h5py alone, and the shards that it is made from.

A file holds one row per subject, in the order of the prompts table. Datasets are named `<site>@<role>`:

    resid@final_name      [subject, layer + 1, d_model]   index 0 is the embedding, index L + 1 is resid_post L
    attn_out@end          [subject, layer, d_model]
    mlp_out@end           [subject, layer, d_model]
    z@final_name          [subject, layer, head, d_head]  one head's output is z W_O; W_O stands in `/W_O`
    pre@final_name        [subject, lookup layer, neuron] before the activation; post@... after it
    pattern@end           [subject, layer, head, key]     attention from that position; NaN beyond the prompt's length

and subject, answer, prompt_key, n_tokens, first_name, final_name, end. Every dataset says its axes and layers in its
attributes; the file says which model, revision, tokenizer, dtype and condition it comes from. Every dataset's chunks
carry checksums, and so do the headers that say its shape and layers, so a changed byte is found on reading; only the
texts of attributes carry none, and of those model and condition are compared with the ones wanted.

Activations are written in a stream, batch by batch, first into shards under a name that is their content key, then
copied row by row into the final file. A shard holds the prompts it holds: when ten subjects are added, the rows of
all others are found in finished shards, and only ten prompts go through the model. Each of the jobs that share the prompts
leaves a listing beside its shards: all else that the final file is made from (`write_listing`, `assemble`). Making it needs
no model: this imports no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import polars as pl
from jaxtyping import Shaped

from factfinding.errors import InputError
from factfinding.files import text_digest, whole

FORMAT = "factfinding activations 2"
AXES = {
    "resid": ("layer", "d_model"),
    "attn_out": ("layer", "d_model"),
    "mlp_out": ("layer", "d_model"),
    "z": ("layer", "head", "d_head"),
    "pre": ("layer", "neuron"),
    "post": ("layer", "neuron"),
    "pattern": ("layer", "head", "key"),
}
"""Of each site's datasets, after the subjects."""
TEXT, NUMBERS = ("subject", "answer"), ("n_tokens", "first_name", "final_name", "end")
REMAKE = "remove the file to have it made again"
SHARDS_AGAIN = "all shards whole; remove results/<study>/activations/*_shard_*.h5 to have those that are missing made again"
DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError)
"""What h5py raises at the many kinds of damage."""
DEFLATE = 1032  # bytes that one compressed byte can make at most, says zlib
CHUNK_BYTES = 1 << 20
BLOCK_ROWS = 64  # rows in memory while a file is put together


@dataclass(frozen=True, kw_only=True)
class StoreLayout:
    """One dataset: its name, what its axes are, which layers its layer axis lists, and where it is ragged."""

    name: str
    shape: tuple[int, ...]  # of one subject; a ragged last axis is given as the longest prompt
    axes: tuple[str, ...]
    layers: tuple[int, ...]
    units: str
    ragged: bool = False


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where activations come from. Two stores with equal sources hold the same numbers for the same prompt."""

    model: str  # digest of weights, configuration and tokenizer
    revision: str
    dtype: str
    condition: str
    code: str  # digest of the code that computes them
    stored: str  # numpy dtype on disk

    @property
    def key(self) -> str:
        return text_digest(json.dumps(asdict(self), sort_keys=True))


def prompt_key(tokens: Sequence[int], positions: Mapping[str, int]) -> str:
    """What one row depends on, apart from its source: the tokens and the positions that are read."""
    return text_digest(json.dumps([list(tokens), sorted(positions.items())]))[:32]


def prompt_keys(prompts: pl.DataFrame, layouts: Sequence[StoreLayout]) -> list[str]:
    """The key of each prompt, whose datasets are read at the roles that the layouts name."""
    roles = sorted({layout.name.split("@")[1] for layout in layouts})
    columns = prompts.select("token_ids", *roles).iter_rows(named=True)
    return [prompt_key(row.pop("token_ids"), row) for row in columns]


class ShardStore:
    """Finished shards of one source, in `folder/<source key>/`. A shard is trusted only if its key and rows match."""

    def __init__(
        self, folder: Path, source: Source, layouts: Sequence[StoreLayout], log: Callable[[str], None]
    ) -> None:
        self.source, self.layouts, self.log = source, tuple(layouts), log
        names = json.dumps([(layout.name, layout.layers, layout.shape[:-1]) for layout in layouts])
        self.key = text_digest(source.key, names)
        self.folder = folder / self.key[:24]

    def rows(self) -> dict[str, tuple[Path, int]]:
        """Where each finished prompt's row lies. A shard that cannot be trusted is said, removed and made again."""
        found: dict[str, tuple[Path, int]] = {}
        for path in sorted(self.folder.glob("*.h5")):
            try:
                with h5py.File(path) as shard:
                    check_own(shard)
                    keys = [key.decode() for key in shard["prompt_key"][:]]
                    if shard.attrs["key"] != self.key or path.stem != shard_name(self.key, keys):
                        raise ValueError("its name is not its content's key")
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                self.log(f"shard {path} is not trusted and is made again: {error}")
                path.unlink(missing_ok=True)  # another process may have been faster
                continue
            found |= {key: (path, row) for row, key in enumerate(keys)}
        return found

    def add(self, keys: Sequence[str], arrays: Mapping[str, Shaped[np.ndarray, "rows ..."]]) -> Path:
        """Write one finished shard, whole."""
        path = self.folder / f"{shard_name(self.key, keys)}.h5"
        with whole(path) as part, h5py.File(part, "w") as shard:
            shard.attrs["key"] = self.key
            shard["prompt_key"] = np.array(keys, dtype="S32")
            for name, array in arrays.items():
                shard.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), fletcher32=True)
        return path


def check_own(file: h5py.File) -> None:
    """Raise ValueError for a file whose data lies in other files, or that holds anything but plain arrays and text.

    A link, an external or a virtual dataset would read whatever file it names, and whoever made the file chose that name.
    """
    for name in file:
        link = file.get(name, getlink=True)
        if not (isinstance(link, h5py.HardLink) and isinstance(file[name], h5py.Dataset)):
            raise ValueError(f"{name!r} is no dataset of this file ({type(link).__name__})")  # noqa: TRY004
        item = file[name]
        if item.external or item.is_virtual:
            raise ValueError(f"{name!r} keeps its data in another file")
        if item.dtype.hasobject and h5py.check_string_dtype(item.dtype) is None:
            raise ValueError(f"{name!r} holds {item.dtype}, neither numbers nor text")


def read_subjects(file: h5py.File) -> pl.DataFrame:
    """The columns that say what each row is. Raises ValueError, or what h5py raises, for columns that do not fit."""
    for name in ("prompt_key", *TEXT, *NUMBERS):
        if name not in file:
            raise ValueError(f"no column {name!r}")
        item, kinds = file[name], "iu" if name in NUMBERS else "S"
        if item.ndim != 1 or item.dtype.kind not in kinds or len(item) != file["prompt_key"].size:
            raise ValueError(f"a column {name!r} of {described(item)}")
        check_size(item)
    text = {name: file[name].asstr()[:].tolist() for name in (*TEXT, "prompt_key")}
    numbers = {name: file[name][:].astype(np.int64) for name in NUMBERS}
    return pl.DataFrame(text | numbers).drop("prompt_key")  # which is read only to check its bytes


def check_dataset(item: h5py.Dataset, rows: int) -> None:
    """Raise ValueError for activations that do not have the form of their site, and for what is larger than the file."""
    check_size(item)
    site, at, _ = item.name.removeprefix("/").partition("@")
    if not at:
        return
    numbers = item.dtype in (np.float16, np.float32, np.float64)
    if not numbers or site not in AXES or item.ndim != 1 + len(AXES[site]) or len(item) != rows:
        raise ValueError(f"{item.name} of {described(item)} for {rows} subjects")
    layers = item.attrs.get("layers")
    if not (isinstance(layers, np.ndarray) and layers.dtype.kind == "i" and layers.shape == item.shape[1:2]):
        raise ValueError(f"{item.name} of {item.shape[1]} layers, and as their numbers {layers!r:.200}")


def check_size(item: h5py.Dataset) -> None:
    """Raise ValueError for a dataset that cannot come out of the bytes that it has in the file.

    A file of a few kilobytes may declare any shape, and reading what was never written would fill the memory. Chunks
    are at least as large as their values, by a checksum each; where they are compressed, zlib's limit is the bound.
    """
    stored = min(item.id.get_storage_size(), os.path.getsize(item.file.filename))
    if item.nbytes > stored * (DEFLATE if item.compression == "gzip" else 1):
        raise ValueError(f"{item.name} of {described(item)} in {stored} bytes")


def described(item: h5py.Dataset) -> str:
    return f"{item.dtype} and shape {item.shape}"


def shard_name(store_key: str, keys: Sequence[str]) -> str:
    return text_digest(store_key, *keys)[:32]


def write_listing(
    path: Path, store: ShardStore, *, attributes: Mapping[str, str], constants: Mapping[str, np.ndarray]
) -> None:
    """What one job leaves beside its shards, whole: of which source and layouts they are, and what the final file says and
    holds that is not a prompt's own (`constants`, which one of the jobs may leave for all)."""
    about = {"source": asdict(store.source), "layouts": [asdict(layout) for layout in store.layouts]}
    with whole(path) as part, h5py.File(part, "w") as file:
        file.attrs["about"] = json.dumps(about | {"attributes": dict(attributes)})
        for name, array in constants.items():
            file.create_dataset(name, data=array, fletcher32=True)


def read_listings(paths: Sequence[Path]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `write_listing` wrote: source, layouts and attributes, and the constants. Raises InputError, naming the file, for one
    that is damaged and for listings that disagree."""
    found: dict[Path, dict[str, Any]] = {}
    constants: dict[str, np.ndarray] = {}
    for path in paths:
        try:
            with h5py.File(path) as file:
                check_own(file)
                found[path] = json.loads(file.attrs["about"])
                constants |= {name: file[name][:] for name in file}
        except DAMAGED as error:
            raise InputError(path, f"no readable listing of shards ({error})", REMAKE) from None
        if found[path] != found[paths[0]]:
            raise InputError(path, f"another source or other datasets than in {paths[0]}", REMAKE)
    return found[paths[0]], constants


def assemble(
    path: Path,
    prompts: pl.DataFrame,
    listings: Sequence[Path],
    *,
    shards: Path,
    log: Callable[[str], None],
) -> None:
    """Copy the rows of `prompts` from finished shards into one file, whole, a block of rows at a time.

    listings: of the jobs that shared the prompts. Raises InputError for prompts that are in no finished shard, and for damaged
    shards and listings.
    """
    about, constants = read_listings(listings)
    layouts = [_layout_of(fields) for fields in about["layouts"]]
    store = ShardStore(shards, Source(**about["source"]), layouts, log)
    keys, where = prompt_keys(prompts, layouts), store.rows()
    missing = sum(key not in where for key in keys)
    if missing:
        raise InputError(
            store.folder, f"no finished shard with {missing} of {len(keys)} prompts", SHARDS_AGAIN
        )
    # since v110 a file's headers carry checksums too
    with whole(path) as part, h5py.File(part, "w", libver="v110") as file:
        file.attrs.update(
            {"format": FORMAT, "complete": False, **asdict(store.source), **about["attributes"]}
        )
        columns = {name: _fixed(prompts[name].to_list()) for name in TEXT}
        columns |= {name: prompts[name].to_numpy() for name in NUMBERS}
        columns["prompt_key"] = np.array(keys, dtype="S32")
        for name, array in (columns | constants).items():
            file.create_dataset(name, data=array, fletcher32=True)
        with _opened() as open_shard:
            for layout in store.layouts:
                _create(file, layout, len(keys), store.source.stored)
                for start in range(0, len(keys), BLOCK_ROWS):
                    rows = [where[key] for key in keys[start : start + BLOCK_ROWS]]
                    file[layout.name][start : start + len(rows)] = _gather(
                        layout, rows, open_shard, store.source.stored
                    )
        file.attrs["complete"] = True


def _layout_of(fields: Mapping[str, Any]) -> StoreLayout:
    """A layout from JSON, where tuples are lists."""
    lists = {name: tuple(fields[name]) for name in ("shape", "axes", "layers")}
    return StoreLayout(**{**fields, **lists})


def _fixed(texts: Sequence[str]) -> Shaped[np.ndarray, " rows"]:
    """Texts as UTF-8 of one width: texts of any width lie outside a dataset's chunks, where no checksum covers them."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


def _create(file: h5py.File, layout: StoreLayout, n: int, dtype: str) -> None:
    row_bytes = int(np.prod(layout.shape)) * np.dtype(dtype).itemsize
    rows = max(1, min(n, CHUNK_BYTES // max(1, row_bytes)))
    # Activations are noise to a compressor; the padding of ragged patterns is not.
    packing = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if layout.ragged else {}
    data = file.create_dataset(
        layout.name,
        shape=(n, *layout.shape),
        dtype=dtype,
        chunks=(rows, *layout.shape),
        fletcher32=True,
        fillvalue=np.nan,
        **packing,
    )
    data.attrs["axes"] = ["subject", *layout.axes]
    data.attrs["layers"] = np.array(layout.layers, dtype=np.int64)
    data.attrs["units"] = layout.units


def _gather(
    layout: StoreLayout, rows: Sequence[tuple[Path, int]], open_shard: Callable[[Path], h5py.File], dtype: str
) -> Shaped[np.ndarray, "rows ..."]:
    """Rows from wherever they lie, in the order asked for; each shard is read once, in one slice."""
    block = np.full((len(rows), *layout.shape), np.nan, dtype=dtype)
    for path in dict.fromkeys(path for path, _ in rows):
        here = np.array([i for i, (shard, _) in enumerate(rows) if shard == path])
        at = np.array([rows[i][1] for i in here])
        try:
            values = open_shard(path)[layout.name][at.min() : at.max() + 1][at - at.min()]
        except DAMAGED as error:
            path.unlink(missing_ok=True)  # as any shard that cannot be trusted
            raise InputError(path, f"damaged data in {layout.name} ({error})", SHARDS_AGAIN) from None
        block[here, ..., : values.shape[-1]] = values
    return block


@contextmanager
def _opened(limit: int = 8) -> Iterator[Callable[[Path], h5py.File]]:
    """Keep the last shards open: rows in the order of the prompts table come from few shards at a time."""
    files: dict[Path, h5py.File] = {}

    def get(path: Path) -> h5py.File:
        if path not in files:
            if len(files) >= limit:
                files.pop(next(iter(files))).close()
            files[path] = h5py.File(path, rdcc_nbytes=0)  # each row is read once: nothing to cache
        return files[path]

    try:
        yield get
    finally:
        for file in files.values():
            file.close()


class Activations:
    """A finished file, opened for reading. Use as a context manager."""

    def __init__(self, path: str | Path, *, model: str | None = None, condition: str | None = None) -> None:
        """Open and check: raises InputError, naming the file, for one that is foreign, unfinished or of another model.

        `model` is the digest on the model card and `condition` the one wanted; None leaves that unchecked.
        """
        self.path = Path(path)
        try:
            self.file = h5py.File(self.path)
        except DAMAGED as error:
            raise self._refused(f"no readable HDF5 file ({error})") from None
        try:
            check_own(self.file)
            self._check_origin({"format": FORMAT, "complete": True, "model": model, "condition": condition})
            self._subjects = read_subjects(self.file)
            for name in self.file:
                check_dataset(self.file[name], len(self._subjects))
        except InputError:
            self.file.close()
            raise
        except DAMAGED as error:
            self.file.close()
            raise self._refused(str(error)) from None

    def _check_origin(self, wanted: Mapping[str, str | bool | None]) -> None:
        for name, value in wanted.items():
            found = self.file.attrs.get(name)
            same = isinstance(found, str | np.bool_) and found == value
            if value is not None and not same:
                raise self._refused(f"{name} {found!r:.200}", f"{name} {value!r}")

    def _refused(self, found: str, allowed: str = "an activation file of this workflow") -> InputError:
        return InputError(self.path, found, f"{allowed}; {REMAKE}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception) -> None:
        self.file.close()

    def names(self) -> list[str]:
        """Datasets of activations, `<site>@<role>`."""
        return sorted(name for name in self.file if "@" in name)

    def subjects(self) -> pl.DataFrame:
        """Columns subject, answer, n_tokens, first_name, final_name, end: one row per row of every dataset."""
        return self._subjects

    def layers(self, name: str) -> list[int]:
        return [int(layer) for layer in self._dataset(name).attrs["layers"]]

    def layer(self, name: str, layer: int) -> Shaped[np.ndarray, "subjects ..."]:
        """One layer of a dataset for all subjects, as stored (for `resid`, layer -1 is the embedding).

        Raises InputError for a dataset or layer that is not in the file, and for bytes that fail their checksum.
        """
        layers = self.layers(name)
        if layer not in layers:
            raise InputError(self.path, f"no layer {layer} of {name}", f"layers {layers[0]}-{layers[-1]}")
        try:
            return self._dataset(name)[:, layers.index(layer)]
        except DAMAGED as error:
            raise self._refused(f"damaged data in {name} ({error})", "a file as it was written") from None

    def _dataset(self, name: str) -> h5py.Dataset:
        if name not in self.file:
            raise InputError(self.path, f"no dataset {name!r}", ", ".join(self.names()))
        return self.file[name]
