"""What the pages on the effects of single neurons share (P3.2)."""

from __future__ import annotations

NO_PAIRS = "No neuron was replaced: no lookup was found at the name, or no <subject> has two known facts."
ORDER = ("resample_other", "mean")
"""The reading that is told first."""
READINGS = {
    "mean": "replaced by their mean",
    "resample_other": "replaced by values of <subjects> of another <answer>",
}
