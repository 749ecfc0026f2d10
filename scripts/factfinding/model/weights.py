"""The values of a model folder's weights, looked at once, one at a time: what `model_folder.py` cannot see in headers."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from factfinding.errors import InputError


def all_finite(weight: Tensor) -> bool:
    """Whether a weight holds neither NaN nor infinity: by its extremes, in one pass that keeps nothing (NaN goes through)."""
    return not weight.numel() or bool(torch.stack(weight.aminmax()).isfinite().all())


def check_finite(folder: Path) -> int:
    """How many weights there are, all of them finite. One weight is in memory at a time.

    Raises InputError naming the file and the weight that holds NaN or infinity, and for a damaged file. Pickled weights
    (*.bin) are not opened; they are looked at when the model is loaded, like all others.
    """
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    weight = file.get_tensor(name)
                    count += 1
                    if weight.is_floating_point() and not all_finite(weight):
                        raise InputError(
                            path, f"numbers that are not finite in {name}", "weights without NaN and infinity"
                        )
        except (SafetensorError, OSError) as error:
            raise InputError(
                path, f"no whole safetensors file ({error})", "weights as they were saved"
            ) from None
    return count
