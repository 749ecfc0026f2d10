"""The closed forms of `closed_forms` as Triton kernels: one pass over memory each, for a GPU.

Each kernel reads what a matrix product wrote and writes what the next one takes in, in that product's precision.
Arithmetic between is in float32. Rows are differences; what they share of the clean run (`x`, `before`, `pattern`,
keys and values) is read once for many of them. `forms.Forms` says the same in plain tensors, and is the twin.

Importing this needs Triton; `fused` does without where there is none.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from factfinding.engine.closed_forms import LARGE_SCORE

LONGEST_WINDOW, LONGEST_PAST, WIDEST_HEAD = 64, 128, 128
"""What the attention kernel holds at once: positions of a row, keys before them, numbers of a head."""


@triton.jit
def _expm1(x):
    """exp(x) - 1 with all its digits where x is small."""
    series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6)))))
    return tl.where(tl.abs(x) < 0.1, series, tl.exp(x) - 1)


@triton.jit
def _tanh(x):
    square = x * x
    series = x * (1 - square * (1.0 / 3 - square * (2.0 / 15 - square * (17.0 / 315))))
    return tl.where(tl.abs(x) < 0.1, series, 1 - 2 / (tl.exp(2 * x) + 1))


@triton.jit(do_not_specialize=["size", "n"])
def _norm(
    change, x, weight, out, size, n, d, change_row, change_at, x_prompt, x_at, eps,
    CENTRED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One position of one row: `closed_forms.norm_difference`, times the norm's weight."""
    program = tl.program_id(0)
    row, at = program // n, program % n
    column = tl.arange(0, BLOCK)
    inside = column < d
    e = tl.load(change + row.to(tl.int64) * change_row + at * change_at + column, mask=inside, other=0.0)
    c = tl.load(x + (row // size).to(tl.int64) * x_prompt + at * x_at + column, mask=inside, other=0.0)
    if CENTRED:
        e = tl.where(inside, e - tl.sum(e) / d, 0.0)
        c = tl.where(inside, c - tl.sum(c) / d, 0.0)
    before = 1 / tl.sqrt(tl.sum(c * c) / d + eps)
    after = 1 / tl.sqrt(tl.sum((c + e) * (c + e)) / d + eps)
    grown = tl.sum((2 * c + e) * e) / d
    both = before * after
    y = e * after - c * (grown * both * both / (before + after))
    y *= tl.load(weight + column, mask=inside, other=0.0)
    tl.store(out + program.to(tl.int64) * d + column, y.to(out.dtype.element_ty), mask=inside)


def norm(
    change: Float[Tensor, "prompts size n d_model"],
    x: Float[Tensor, "prompts 1 n d_model"],
    weight: Float[Tensor, " d_model"],
    eps: float,
    dtype: torch.dtype,
    *,
    centred: bool = True,
) -> Float[Tensor, "prompts size n d_model"]:
    """Change of a LayerNorm's output (without its bias) when its input x changes, as `dtype`; an RMS norm's if not `centred`."""
    prompts, size, n, d = change.shape
    change, x = (_one_step_between_rows(part) for part in (change, x))
    out = torch.empty(change.shape, dtype=dtype, device=change.device)
    strides = (change.stride(1), change.stride(2), x.stride(0), x.stride(2))
    block = triton.next_power_of_2(d)
    _norm[(prompts * size * n,)](
        change, x, weight, out, size, n, d, *strides, eps,
        CENTRED=centred, BLOCK=block, num_warps=8 if block > 2048 else 4,
    )  # fmt: skip
    return out


def _one_step_between_rows(x: Tensor) -> Tensor:
    """x with rows of all prompts at even distances and numbers side by side; copied only where it is not so."""
    even = x.shape[0] == 1 or x.shape[1] == 1 or x.stride(0) == x.shape[1] * x.stride(1)
    return x if even and x.stride(-1) == 1 else x.contiguous()


@triton.jit
def _gelu(x, first, second, third, fourth, fifth, d, small):
    """`closed_forms.gelu_difference`, its series given."""
    y = ((((fifth * d + fourth) * d + third) * d + second) * d + first) * d
    if tl.max(tl.abs(d)) > small:
        rest = _bounded(x + d) - _bounded(x)
        y = tl.where(tl.abs(d) > small, _relu(x, d) - rest, y)
    return y


@triton.jit
def _bounded(x):
    return tl.abs(x) * (0.5 - 0.5 * tl.erf(tl.abs(x) * 0.7071067811865476))


@triton.jit(do_not_specialize=["size"])
def _activation(
    before, moved, out, size, columns, before_prompt, small,
    KIND: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Some numbers of some rows; what depends on the clean run alone is computed once for all rows."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    prompt = tl.program_id(2).to(tl.int64)
    x = tl.load(before + prompt * before_prompt + column, mask=inside, other=0.0)
    square = x * x
    if KIND == "gelu":
        density = tl.exp(-square / 2) * 0.3989422804014327
        first = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476) + x * density
        second = (2 - square) * density / 2
        third = x * (square - 4) * density / 6
        fourth = ((7 - square) * square - 4) * density / 24
        fifth = x * ((square - 11) * square + 18) * density / 120
    if KIND == "tanh":
        tanh = _tanh(0.7978845608028654 * (x + 0.044715 * x * square))
    if KIND == "silu":
        tanh = _tanh(x / 2)
    for i in range(0, ROWS, 2):  # two at a time, so that more is on its way from memory
        row = tl.program_id(1) * ROWS + i
        at = (prompt * size + row) * columns + column
        here, next_here = inside & (row < size), inside & (row + 1 < size)
        d = tl.load(moved + at, mask=here, other=0.0)
        next_d = tl.load(moved + at + columns, mask=next_here, other=0.0)
        if KIND == "gelu":
            y = _gelu(x, first, second, third, fourth, fifth, d, small)
            next_y = _gelu(x, first, second, third, fourth, fifth, next_d, small)
        if KIND == "tanh":
            y, next_y = _tanh_gelu(x, tanh, d), _tanh_gelu(x, tanh, next_d)
        if KIND == "silu":
            y, next_y = _silu(x, tanh, d), _silu(x, tanh, next_d)
        if KIND == "relu":
            y, next_y = _relu(x, d), _relu(x, next_d)
        tl.store(out + at, y.to(out.dtype.element_ty), mask=here)
        tl.store(out + at + columns, next_y.to(out.dtype.element_ty), mask=next_here)


@triton.jit
def _tanh_gelu(x, tanh, d):
    """`closed_forms.tanh_gelu_difference`, what depends on x given."""
    moved = x + d
    grown = 0.7978845608028654 * d * (1 + 0.044715 * (3 * x * x + 3 * x * d + d * d))
    return _half_open(x, tanh, d, grown, 0.7978845608028654 * (moved + 0.044715 * moved * moved * moved))


@triton.jit
def _silu(x, tanh, d):
    """`closed_forms.silu_difference`, what depends on x given."""
    return _half_open(x, tanh, d, d / 2, (x + d) / 2)


@triton.jit
def _half_open(x, tanh, d, grown, after):
    """Change of x (1 + tanh) / 2 when x changes by d, and what the tanh is taken of by `grown`, to `after`."""
    then = _tanh(after)
    return (d * (1 + then) + x * _tanh(grown) * (1 - tanh * then)) / 2


@triton.jit
def _relu(x, d):
    return tl.where(x > 0, tl.maximum(d, -x), tl.maximum(x + d, 0.0))


def activation(
    kind: str,
    before: Float[Tensor, "prompts 1 n d_mlp"],
    moved: Float[Tensor, "prompts size n d_mlp"],
    dtype: torch.dtype,
) -> Float[Tensor, "prompts size n d_mlp"]:
    """Change of gelu, tanh (GELU's tanh form), silu or relu when its input `before` changes by `moved`, as `dtype`."""
    prompts, size, n, d_mlp = moved.shape
    moved, columns = moved.contiguous(), n * d_mlp
    before = before if before[0, 0].is_contiguous() else before.contiguous()
    out = torch.empty(moved.shape, dtype=dtype, device=moved.device)
    block, rows = 512, 16
    grid = (triton.cdiv(columns, block), triton.cdiv(size, rows), prompts)
    small = (100 * torch.finfo(torch.float32).eps) ** 0.2
    _activation[grid](
        before, moved, out, size, columns, before.stride(0), small, KIND=kind, BLOCK=block, ROWS=rows
    )
    return out


@triton.jit(do_not_specialize=["size"])
def _product(x, dx, y, dy, out, size, columns, x_prompt, y_prompt, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Some numbers of some rows; x and y are read once for all rows."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    prompt = tl.program_id(2).to(tl.int64)
    a = tl.load(x + prompt * x_prompt + column, mask=inside, other=0.0)
    b = tl.load(y + prompt * y_prompt + column, mask=inside, other=0.0)
    for i in range(ROWS):
        row = tl.program_id(1) * ROWS + i
        at = (prompt * size + row) * columns + column
        here = inside & (row < size)
        da = tl.load(dx + at, mask=here, other=0.0).to(tl.float32)
        db = tl.load(dy + at, mask=here, other=0.0).to(tl.float32)
        tl.store(out + at, (a * db + da * (b + db)).to(out.dtype.element_ty), mask=here)


def product(
    x: Float[Tensor, "prompts 1 n d_mlp"],
    dx: Float[Tensor, "prompts size n d_mlp"],
    y: Float[Tensor, "prompts 1 n d_mlp"],
    dy: Float[Tensor, "prompts size n d_mlp"],
    dtype: torch.dtype,
) -> Float[Tensor, "prompts size n d_mlp"]:
    """Change of x y, number by number, when x changes by dx and y by dy, as `dtype`."""
    prompts, size, n, d_mlp = dx.shape
    dx, dy, columns = dx.contiguous(), dy.contiguous(), n * d_mlp
    x, y = (part if part[0, 0].is_contiguous() else part.contiguous() for part in (x, y))
    out = torch.empty(dx.shape, dtype=dtype, device=dx.device)
    block, rows = 512, 16
    grid = (triton.cdiv(columns, block), triton.cdiv(size, rows), prompts)
    _product[grid](x, dx, y, dy, out, size, columns, x.stride(0), y.stride(0), BLOCK=block, ROWS=rows)
    return out


@triton.jit
def _turned(x, at, column, inside, cos, sin, position, d_rotary):
    """Some numbers of a head at some positions, rotated as `anatomy.rotate` does."""
    half = d_rotary // 2
    turns = inside & (column < d_rotary)[None, :]
    partner = tl.where(column < half, column + half, column - half)
    own = tl.load(x + at[:, None] + column[None, :], mask=inside, other=0.0)
    other = tl.load(x + at[:, None] + partner[None, :], mask=turns, other=0.0)
    angle = position[:, None] * d_rotary + column[None, :]
    c = tl.load(cos + angle, mask=turns, other=1.0)
    s = tl.load(sin + angle, mask=turns, other=0.0)
    return own * c + tl.where((column < half)[None, :], -other, other) * s


@triton.jit(
    do_not_specialize=[
        "size",
        "n",
        "first",
        "changed",
        "skipped",
        "heads",
        "sharing",
        "d_rotary",
        "p_prompt",
        "p_head",
        "p_at",
    ]
)
def _attention(
    dq, dk, dv, q, keys, values, pattern, cos, sin, out,
    size, n, first, changed, skipped, heads, sharing, d_rotary, scale, large,
    dq_row, dq_head, dq_at, dk_row, dk_head, dk_at, q_prompt, q_head, q_at, k_prompt, k_head, k_at, p_prompt, p_head, p_at,
    d_head: tl.constexpr, OPERAND: tl.constexpr,
    M: tl.constexpr, PAST: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One head of as many rows as fit into M positions: their own keys are a block-diagonal part of M x M scores.

    A head's numbers are taken a chunk at a time: fewer are alive at once, and more programs run side by side. As many
    heads as `sharing` have one key and one value.
    """
    head, prompt = tl.program_id(1), tl.program_id(2).to(tl.int64)
    kv_head = head // sharing
    slot, t = tl.arange(0, M), tl.arange(0, PAST)
    rows, mine, i = M // n, slot // n, slot % n
    row = tl.program_id(0) * rows + mine
    valid = (mine < rows) & (row < size)
    seen_past = valid[:, None] & (t < first)[None, :]
    seen = (valid[:, None] & valid[None, :]) & (mine[:, None] == mine[None, :]) & (i[None, :] <= i[:, None])
    dq_where = (prompt * size + row) * dq_row + i * dq_at + head * dq_head
    dk_where = (prompt * size + row) * dk_row + i * dk_at + kv_head * dk_head
    q_where = prompt * q_prompt + head * q_head + i * q_at
    here_at = prompt * k_prompt + kv_head * k_head + (first + i) * k_at
    past_at = prompt * k_prompt + kv_head * k_head + t * k_at

    # change of the scores: queries with the clean keys, and all of the queries with the rows' own change of keys
    s, s_past = tl.zeros((M, M), tl.float32), tl.zeros((M, PAST), tl.float32)
    for start in range(0, d_head, CHUNK):
        column = start + tl.arange(0, CHUNK)
        wide = (column < d_head)[None, :]
        inside, here, past = (
            valid[:, None] & wide,
            (valid & (i < changed))[:, None] & wide,
            (t < first)[:, None] & wide,
        )
        move = _turned(dq, dq_where, column, here, cos, sin, i, d_rotary)
        after = (tl.load(q + q_where[:, None] + column[None, :], mask=inside, other=0.0) + move).to(OPERAND)
        own_k = _turned(dk, dk_where, column, here, cos, sin, i, d_rotary).to(OPERAND)
        s += tl.dot(after, tl.trans(own_k), input_precision="tf32")
        move = move.to(OPERAND)
        clean_k = tl.load(keys + here_at[:, None] + column[None, :], mask=inside, other=0.0).to(OPERAND)
        s += tl.dot(move, tl.trans(clean_k), input_precision="tf32")
        past_k = tl.load(keys + past_at[:, None] + column[None, :], mask=past, other=0.0).to(OPERAND)
        s_past += tl.dot(move, tl.trans(past_k), input_precision="tf32")

    # change of the pattern, as closed_forms.softmax_difference
    s_past, s = tl.where(seen_past, s_past * scale, 0.0), tl.where(seen, s * scale, 0.0)
    where = pattern + prompt * p_prompt + head * p_head + (i * p_at)[:, None]
    p_past = tl.load(where + t[None, :], mask=seen_past, other=0.0)
    p = tl.load(where + first + i[None, :], mask=seen, other=0.0)
    e_past, e = _expm1(s_past), _expm1(s)
    total = (tl.sum(p_past * e_past, 1) + tl.sum(p * e, 1))[:, None]
    moved_past, moved = p_past * ((e_past - total) / (1 + total)), p * ((e - total) / (1 + total))
    top = tl.maximum(tl.max(s_past, 1), tl.max(s, 1))[:, None]
    if tl.max(top) > large:
        g_past, g = p_past * tl.exp(s_past - top), p * tl.exp(s - top)
        total = tl.maximum(tl.sum(g_past, 1) + tl.sum(g, 1), 1e-30)[:, None]
        moved_past = tl.where(top > large, g_past / total - p_past, moved_past)
        moved = tl.where(top > large, g / total - p, moved)
    after, moved, moved_past = (p + moved).to(OPERAND), moved.to(OPERAND), moved_past.to(OPERAND)

    # change of what is mixed: the clean values by the pattern's change, the values' change by all of the pattern
    to = ((prompt * size + row) * (n - skipped) + i - skipped) * (heads * d_head) + head * d_head
    for start in range(0, d_head, CHUNK):
        column = start + tl.arange(0, CHUNK)
        wide = (column < d_head)[None, :]
        inside, here, past = (
            valid[:, None] & wide,
            (valid & (i < changed))[:, None] & wide,
            (t < first)[:, None] & wide,
        )
        own_v = tl.load(dv + dk_where[:, None] + column[None, :], mask=here, other=0.0).to(OPERAND)
        z = tl.dot(after, own_v, input_precision="tf32")
        clean_v = tl.load(values + here_at[:, None] + column[None, :], mask=inside, other=0.0).to(OPERAND)
        z += tl.dot(moved, clean_v, input_precision="tf32")
        past_v = tl.load(values + past_at[:, None] + column[None, :], mask=past, other=0.0).to(OPERAND)
        z += tl.dot(moved_past, past_v, input_precision="tf32")
        wanted = (valid & (i >= skipped))[:, None] & wide
        tl.store(out + to[:, None] + column[None, :], z.to(out.dtype.element_ty), mask=wanted)


def attention_fits(n: int, first: int, d_head: int) -> bool:
    """Whether the kernel can hold a window of n positions with `first` keys before it."""
    return n <= LONGEST_WINDOW and first <= LONGEST_PAST and d_head <= WIDEST_HEAD


def attention(
    moved: tuple[Tensor, Tensor, Tensor],
    q: Float[Tensor, "prompts heads n d_head"],
    keys: Float[Tensor, "prompts kv_heads seen d_head"],
    values: Float[Tensor, "prompts kv_heads seen d_head"],
    pattern: Float[Tensor, "prompts heads n seen"],
    rotary: tuple[Tensor, Tensor] | None,
    *,
    size: int,
    skipped: int,
    scale: float,
    dtype: torch.dtype,
) -> Float[Tensor, "rows wanted d_model"]:
    """Change of the heads' mixed values at the window's positions from `skipped` on, as `dtype`.

    `moved`: the changes of queries, keys and values before rotation, `[rows, heads, changed, d_head]` each (keys and values
    of as many heads as the clean run's), at the window's leading positions; `size` rows of each prompt. Products of float32 numbers are in TF32.
    """
    dq, (dk, dv), (keys, values) = moved[0], _alike(*moved[1:]), _alike(keys, values)
    (prompts, heads, n, d_head), (kv_heads, seen) = q.shape, keys.shape[1:3]
    cos, sin = (q, q) if rotary is None else (part[0].contiguous() for part in rotary)
    d_rotary = 0 if rotary is None else cos.shape[-1]
    out = torch.empty(len(dq), n - skipped, heads * d_head, dtype=dtype, device=q.device)
    m = 32 if n <= 16 else 64
    past = max(16, triton.next_power_of_2(seen - n))
    operand = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}[dtype]
    _attention[(triton.cdiv(size, m // n), heads, prompts)](
        dq, dk, dv, q, keys, values, pattern, cos, sin, out,
        size, n, seen - n, dq.shape[2], skipped, heads, heads // kv_heads, d_rotary, scale, LARGE_SCORE,
        *dq.stride()[:3], *dk.stride()[:3], *q.stride()[:3], *keys.stride()[:3], *pattern.stride()[:3],
        d_head=d_head, OPERAND=operand, M=m, PAST=past, CHUNK=16,
        num_warps=4 if m == 32 and past <= 32 else 8, num_stages=1,
    )  # fmt: skip
    return out


def _alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the same distances between their numbers."""
    return (x, y) if x.stride() == y.stride() else (x.contiguous(), y.contiguous())


@triton.jit(do_not_specialize=["size"])
def _growth(
    logits, own, others, grown, largest, size, others_prompt, others_token,
    n: tl.constexpr, k: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row's share of a piece of the vocabulary, token by token."""
    row = tl.program_id(0).to(tl.int64)
    for j in range(k):
        relative = tl.load(own + row * k + j)
        p_at = others + (row // size) * others_prompt + j * others_token
        total, top = tl.zeros((BLOCK,), tl.float32), tl.full((BLOCK,), -float("inf"), tl.float32)
        for start in range(0, n, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < n
            moved = tl.load(logits + row * n + column, mask=inside, other=-float("inf")) - relative
            top = tl.maximum(top, moved)
            total += tl.load(p_at + column, mask=inside, other=0.0) * _expm1(tl.where(inside, moved, 0.0))
        tl.store(grown + row * k + j, tl.sum(total))
        tl.store(largest + row * k + j, tl.max(top))


def growth(
    logits: Float[Tensor, "prompts size piece"],
    own: Float[Tensor, "prompts size k"],
    others: Float[Tensor, "prompts 1 k piece"],
) -> tuple[Float[Tensor, "prompts size k"], Float[Tensor, "prompts size k"]]:
    """Sum of others * expm1(logits - own) over a piece of the vocabulary, and the largest logits - own in it."""
    prompts, size, n = logits.shape
    logits, own = logits.contiguous(), own.contiguous()
    others = others if others.stride(3) == 1 else others.contiguous()
    grown, largest = torch.empty_like(own), torch.empty_like(own)
    strides = (others.stride(0), others.stride(2))
    _growth[(prompts * size,)](
        logits, own, others, grown, largest, size, *strides, n=n, k=own.shape[2], BLOCK=1024
    )
    return grown, largest
