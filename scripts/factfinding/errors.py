"""The one error that a user's input can raise, worded the same way everywhere."""

from __future__ import annotations


class InputError(ValueError):
    """Something that the user supplied cannot be used: says where it stands, what was found and what is allowed."""

    def __init__(self, where: object, found: str, allowed: str) -> None:
        super().__init__(f"{where}: found {found}; allowed: {allowed}")
        self.where, self.found, self.allowed = str(where), found, allowed

    def __reduce__(self):  # keeps the three parts when the error crosses a process boundary
        return InputError, (self.where, self.found, self.allowed)
