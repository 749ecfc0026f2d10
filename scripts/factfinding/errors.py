"""The one error that a user's input can raise, worded the same way everywhere, and how others say that memory ran out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something that the user supplied cannot be used: says where it stands, what was found and what is allowed."""

    def __init__(self, where: object, found: str, allowed: str) -> None:
        super().__init__(f"{where}: found {found}; allowed: {allowed}")
        self.where, self.found, self.allowed = str(where), found, allowed

    def __reduce__(self):  # keeps the three parts when the error crosses a process boundary
        return InputError, (self.where, self.found, self.allowed)


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Errors from inside also say where what they are about comes from: the file, or the key that names it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error.where} ({source})", error.found, error.allowed) from None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's own, torch's for a GPU (by its name: this imports no torch), or
    the plain RuntimeError that torch raises for a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(said in str(error) for said in ("can't allocate memory", "not enough memory", "out of memory"))
