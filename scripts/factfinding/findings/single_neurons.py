"""What the pages on the effects of single neurons share (P3.2)."""

from __future__ import annotations

NO_EFFECTS = "no lookup was found at the name, no <subject> has two known facts, or no neuron changes them"
"""Why the tables on the effects of single neurons are empty; which of the three it is, they do not say."""
NO_PAIRS = f"There are no effects of single neurons to compare: {NO_EFFECTS}."
ORDER = ("resample_other", "mean")
"""The reading that is told first."""
READINGS = {
    "mean": "replaced by their mean",
    "resample_other": "replaced by values of <subjects> of another <answer>",
}
