"""When a model is said to know something: one rule for answers, for other facts, and for what an intervention leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOT_DRAWN = "not drawn"
"""In the column `left_out` of the table recall: recalled, and left out so that a large model is done in time."""
KNOWN_ABOVE = 0.5
"""More than this probability on the right answer's first token: more than on all other tokens together."""


def is_known(p: Any, above: float = KNOWN_ABOVE) -> Any:
    """Whether each probability of a right answer is that of a known one; p: a number, an array or a polars column."""
    return p > above


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Whose answer counts as recalled (`recall.known`): `probability`, its token's is above `above`; `first`, it is the
    likeliest token of all; `best`, it is the likeliest of the answers that may be given to the question."""

    how: str = "probability"
    above: float = KNOWN_ABOVE

    def holds(self, *, p: Any, first: Any, best: Any) -> Any:
        """What is recalled, of arrays: probabilities of the right answers, and whether these are the likeliest token of all,
        and the likeliest of the answers that may be given."""
        return {"probability": is_known(p, self.above), "first": first, "best": best}[self.how]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Rule:
        """The rule that a row of the table `known_filters` names."""
        return cls(how=row["rule"]) if row["above"] is None else cls(how=row["rule"], above=row["above"])

    @property
    def words(self) -> str:
        """The rule in a sentence, of the right answer's token."""
        return {
            "probability": f"P\N{NO-BREAK SPACE}>\N{NO-BREAK SPACE}{self.above:g}",
            "first": "the likeliest token of all",
            "best": "the likeliest of the answers that may be given",
        }[self.how]


STUDY_RULE = Rule()
"""The study's own: P > 0.5."""
