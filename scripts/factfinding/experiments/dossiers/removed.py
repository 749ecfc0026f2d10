"""Names of what is projected out of a neuron's input weights, for those who compute it and those who show it (P3.4)."""

from __future__ import annotations

WITH_HEAD, WITH_PROBE = "output weights and head", "output weights, head and logistic probe"
"""The study's set (the neuron's output weights, a head's logit and its logit difference), and that with a fitted probe."""
