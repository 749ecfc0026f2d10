"""Operations of the difference form's matrix products, counted from shapes alone: a multiply-add counts as two.

Only what grows with the number of patches is counted. What all patches of a prompt share (the clean run, its attention
patterns and log-probabilities) is left out, and so is everything that is no matrix product: a share of the matrix
units' rate is what these are for. Blocks are GPT-NeoX's, whose attention and MLP read the same residual stream, or gated
ones (Llama's), whose MLP comes after attention and has three projections.
"""

from __future__ import annotations


def product(n: int, k: int, m: int) -> int:
    """`[n, k] @ [k, m]`."""
    return 2 * n * k * m


def attention(*, d_model: int, kv_width: int, changed: int, wanted: int, window: int, keys: int) -> int:
    """Change of one attention output: `changed` positions in, `wanted` out, of `window`; `keys` seen in all.

    Projections, scores through queries and through keys, values through the pattern and by themselves, output. The
    heads together are as wide as the residual stream, so they do not appear; keys and values are `kv_width` wide each.
    """
    inputs = product(changed, d_model, d_model + 2 * kv_width)
    mixing = 2 * product(wanted, d_model, keys) + 2 * product(wanted, d_model, window)
    return inputs + mixing + product(wanted, d_model, d_model)


def mlp(*, d_model: int, d_mlp: int, positions: int, gated: bool) -> int:
    """Change of an MLP's output at some positions: in (twice if gated) and out."""
    return (1 + gated) * product(positions, d_model, d_mlp) + product(positions, d_mlp, d_model)


def neuron_patch(
    *, d_model: int, d_mlp: int, vocabulary: int, layers: int, layer: int, at: int, end: int, answers: int = 1,
    kv_width: int | None = None, gated: bool = False,
) -> int:  # fmt: skip
    """One neuron of `layer` at position `at` set to one value, log P of some answers read at `end`.

    The first layer above runs on the one position that differs, the last gives only the one that is read.
    """
    window, total = end - at + 1, 0
    for above in range(layer + 1, layers):
        changed = 1 if above == layer + 1 else window
        wanted = 1 if above == layers - 1 else window
        fresh = max(changed - (window - wanted), 0)
        total += attention(
            d_model=d_model, kv_width=kv_width or d_model, changed=changed, wanted=wanted, window=window, keys=end + 1
        )  # fmt: skip
        total += mlp(d_model=d_model, d_mlp=d_mlp, positions=wanted if gated else fresh, gated=gated)
    return total + product(1, d_model, vocabulary) + product(1, d_model, answers)
