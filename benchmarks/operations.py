"""Operations of the difference form's matrix products, counted from shapes alone: a multiply-add counts as two.

Only what grows with the number of patches is counted. What all patches of a prompt share (the clean run, its attention
patterns and log-probabilities) is left out, and so is everything that is no matrix product: a share of the matrix
units' rate is what these are for. Blocks are GPT-NeoX's: attention and MLP read the same residual stream.
"""

from __future__ import annotations


def product(n: int, k: int, m: int) -> int:
    """`[n, k] @ [k, m]`."""
    return 2 * n * k * m


def attention(*, d_model: int, changed: int, wanted: int, window: int, keys: int) -> int:
    """Change of one attention output: `changed` positions in, `wanted` out, of `window`; `keys` seen in all.

    Projections, scores through queries and through keys, values through the pattern and by themselves, output. The
    heads together are as wide as the residual stream, so they do not appear.
    """
    inputs = product(changed, d_model, 3 * d_model)
    mixing = 2 * product(wanted, d_model, keys) + 2 * product(wanted, d_model, window)
    return inputs + mixing + product(wanted, d_model, d_model)


def mlp(*, d_model: int, d_mlp: int, positions: int) -> int:
    """Change of an MLP's output at some positions: in and out."""
    return product(positions, d_model, d_mlp) + product(positions, d_mlp, d_model)


def neuron_patch(
    *, d_model: int, d_mlp: int, vocabulary: int, layers: int, layer: int, at: int, end: int, answers: int = 1
) -> int:
    """One neuron of `layer` at position `at` set to one value, log P of some answers read at `end`.

    The first layer above runs on the one position that differs, the last gives only the one that is read.
    """
    window, total = end - at + 1, 0
    for above in range(layer + 1, layers):
        changed = 1 if above == layer + 1 else window
        wanted = 1 if above == layers - 1 else window
        fresh = max(changed - (window - wanted), 0)
        total += attention(d_model=d_model, changed=changed, wanted=wanted, window=window, keys=end + 1)
        total += mlp(d_model=d_model, d_mlp=d_mlp, positions=fresh)
    return total + product(1, d_model, vocabulary) + product(1, d_model, answers)
