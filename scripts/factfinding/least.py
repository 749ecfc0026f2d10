"""What is too little to be counted, ranked or named, the same everywhere."""

from __future__ import annotations

LEAST_SHARE = 0.01
"""Of the whole effect. An interval that leaves zero out is not enough to say that a part does something: in a model in
which a single head writes the answer, rounding and the common scale of the norm give every other head a change of 1e-8
logits or less, of the same sign for all subjects. A hundredth lies far above that, and far below any part that the study
names (its smallest are several per cent)."""
LEAST_SUBJECTS = 10
"""Groups of fewer subjects are not singled out."""
BETTER_POINTS = 0.05
BETTER_NATS = 0.7
"""Prompts that begin with another token are clearly better where the whole interval of the paired difference lies above this:
five points of a share, or 0.7 nats of the right answer's log probability, which makes it twice as probable."""
FITS_ANYTHING = 0.95
"""Share of shuffled answers that a model fitted to them gives, from which what it gives of the true ones says nothing."""
EXACT_UP_TO = 5e12
"""Multiplications up to which P2.7 and P3.2 run every replacement (`screen: auto`): some minutes of one processor. It is a number of
the study, not of the machine, so that the same study gives the same table everywhere."""
EVALUATIONS = 3
"""Points that a neuron's curve takes, about (docs/performance.md)."""
