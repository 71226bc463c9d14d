"""Products with matrices in few bits on a GPU: codes become numbers in registers, never in memory.

    row_*   one input: each program sums some rows of the matrix, in float32
    tile_*  16 inputs at a time, on the tensor cores, in the inputs' type with float32 sums

A tile's result for one input depends on that input alone, whatever is beside it and however many
there are: the parts into which the sum is cut depend on the matrix. Nothing here chooses by trying
out, waits or allocates, so that a CUDA graph can hold every call.

int4 codes lie two in a byte: byte j of a group's 16 has code j below and code j + 16 above.
"""

import triton
import triton.language as tl

GROUP = tl.constexpr(32)
HALF = tl.constexpr(16)  # bytes of a group of int4


@triton.jit
def row_int8(x, codes, scales, y, n_out, n_in, groups, ROWS: tl.constexpr, SPAN: tl.constexpr):
    """y [out] = codes [out, in] x; SPAN groups at a time."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group, lane = tl.arange(0, SPAN), tl.arange(0, GROUP)
    total = tl.zeros((ROWS, SPAN), tl.float32)
    for first in range(0, groups, SPAN):
        g = first + group
        column = g[:, None] * GROUP + lane[None, :]
        value = tl.load(x + column, mask=column < n_in, other=0.0).to(tl.float32)
        inside = (row[:, None, None] < n_out) & (column < n_in)[None]
        at = row[:, None, None].to(tl.int64) * n_in + column[None]
        code = tl.load(codes + at, mask=inside, other=0).to(tl.float32)
        known = (row[:, None] < n_out) & (g < groups)[None]
        scale = tl.load(scales + row[:, None] * groups + g[None], mask=known, other=0.0)
        total += tl.sum(code * value[None], 2) * scale.to(tl.float32)
    tl.store(y + row, tl.sum(total, 1).to(y.dtype.element_ty), mask=row < n_out)


@triton.jit
def row_int4(
    x, codes, scales, zeros, y, n_out, n_in, groups, ROWS: tl.constexpr, SPAN: tl.constexpr
):
    """y [out] = codes x; codes are bytes [out, groups, 16], zeros sixteenths of a code."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group, lane = tl.arange(0, SPAN), tl.arange(0, HALF)
    total = tl.zeros((ROWS, SPAN), tl.float32)
    for first in range(0, groups, SPAN):
        g = first + group
        low = g[:, None] * GROUP + lane[None, :]
        below = tl.load(x + low, mask=low < n_in, other=0.0).to(tl.float32)
        above = tl.load(x + low + HALF, mask=low + HALF < n_in, other=0.0).to(tl.float32)
        known = (row[:, None] < n_out) & (g < groups)[None]
        place = row[:, None] * groups + g[None]
        at = place[:, :, None].to(tl.int64) * HALF + lane[None, None]
        pair = tl.load(codes + at, mask=known[:, :, None], other=0)
        product = (pair & 15).to(tl.float32) * below[None] + (pair >> 4).to(tl.float32) * above[
            None
        ]
        scale = tl.load(scales + place, mask=known, other=0.0).to(tl.float32)
        zero = tl.load(zeros + place, mask=known, other=0).to(tl.float32) * 0.0625
        came = tl.sum(below + above, 1)
        total += (tl.sum(product, 2) - zero * came[None]) * scale
    tl.store(y + row, tl.sum(total, 1).to(y.dtype.element_ty), mask=row < n_out)


@triton.jit
def row_fp8(x, codes, scales, y, n_out, n_in, ROWS: tl.constexpr, SPAN: tl.constexpr):
    """y [out] = codes [out, in] x, one scale for each row; SPAN inputs at a time."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, SPAN), tl.float32)
    for first in range(0, n_in, SPAN):
        column = first + tl.arange(0, SPAN)
        value = tl.load(x + column, mask=column < n_in, other=0.0).to(tl.float32)
        inside = (row[:, None] < n_out) & (column < n_in)[None]
        at = row[:, None].to(tl.int64) * n_in + column[None]
        total += tl.load(codes + at, mask=inside, other=0.0).to(tl.float32) * value[None]
    scale = tl.load(scales + row, mask=row < n_out, other=0.0)
    tl.store(y + row, (tl.sum(total, 1) * scale).to(y.dtype.element_ty), mask=row < n_out)


@triton.jit
def tile_int8(
    x, codes, scales, y, n_x, n_out, n_in, groups, share,
    TALL: tl.constexpr, WIDE: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """y [parts, n_x, out], float32: x [n_x, in] times codes, over `share` groups in each part."""
    row = tl.program_id(0) * TALL + tl.arange(0, TALL)
    col = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    part = tl.program_id(2)
    total = tl.zeros((TALL, WIDE), tl.float32)
    for first in range(part * share, min(part * share + share, groups), SPAN):
        g = first + tl.arange(0, SPAN)
        k = first * GROUP + tl.arange(0, SPAN * GROUP)
        inside = (row[:, None] < n_x) & (k < n_in)[None]
        value = tl.load(x + row[:, None].to(tl.int64) * n_in + k[None], mask=inside, other=0.0)
        inside = (col[:, None] < n_out) & (k < n_in)[None]
        code = tl.load(codes + col[:, None].to(tl.int64) * n_in + k[None], mask=inside, other=0)
        known = (col[:, None] < n_out) & (g < groups)[None]
        scale = tl.load(scales + col[:, None] * groups + g[None], mask=known, other=0.0)
        cube = tl.reshape(code.to(tl.float32), (WIDE, SPAN, GROUP))
        weight = tl.reshape(cube * scale.to(tl.float32)[:, :, None], (WIDE, SPAN * GROUP))
        total = tl.dot(value, tl.trans(weight.to(value.dtype)), total, input_precision="ieee")
    at = (part * n_x + row[:, None]).to(tl.int64) * n_out + col[None]
    tl.store(y + at, total, mask=(row[:, None] < n_x) & (col < n_out)[None])


@triton.jit
def tile_int4(
    x, codes, scales, zeros, y, n_x, n_out, n_in, groups, share,
    TALL: tl.constexpr, WIDE: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """As `tile_int8`; the lower and the upper codes of the bytes are two products."""
    row = tl.program_id(0) * TALL + tl.arange(0, TALL)
    col = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    part = tl.program_id(2)
    total = tl.zeros((TALL, WIDE), tl.float32)
    for first in range(part * share, min(part * share + share, groups), SPAN):
        g = first + tl.arange(0, SPAN)
        i = tl.arange(0, SPAN * HALF)
        low = first * GROUP + (i // HALF) * GROUP + i % HALF
        start = x + row[:, None].to(tl.int64) * n_in
        there = (row < n_x)[:, None]
        below = tl.load(start + low[None], mask=there & (low < n_in)[None], other=0.0)
        high = low + HALF
        above = tl.load(start + high[None], mask=there & (high < n_in)[None], other=0.0)
        known = (col[:, None] < n_out) & (g < groups)[None]
        place = col[:, None] * groups + g[None]
        scale = tl.load(scales + place, mask=known, other=0.0).to(tl.float32)[:, :, None]
        zero = tl.load(zeros + place, mask=known, other=0).to(tl.float32)[:, :, None] * 0.0625
        byte = first * HALF + i
        inside = (col[:, None] < n_out) & (byte < groups * HALF)[None]
        at = col[:, None].to(tl.int64) * groups * HALF + byte[None]
        pair = tl.reshape(tl.load(codes + at, mask=inside, other=0), (WIDE, SPAN, HALF))
        lower = tl.reshape(((pair & 15).to(tl.float32) - zero) * scale, (WIDE, SPAN * HALF))
        upper = tl.reshape(((pair >> 4).to(tl.float32) - zero) * scale, (WIDE, SPAN * HALF))
        total = tl.dot(below, tl.trans(lower.to(below.dtype)), total, input_precision="ieee")
        total = tl.dot(above, tl.trans(upper.to(above.dtype)), total, input_precision="ieee")
    at = (part * n_x + row[:, None]).to(tl.int64) * n_out + col[None]
    tl.store(y + at, total, mask=(row[:, None] < n_x) & (col < n_out)[None])


@triton.jit
def tile_fp8(
    x, codes, scales, y, n_x, n_out, n_in, share,
    TALL: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    """As `tile_int8`, one scale for each row; `share` inputs in each part, DEEP at a time."""
    row = tl.program_id(0) * TALL + tl.arange(0, TALL)
    col = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    part = tl.program_id(2)
    total = tl.zeros((TALL, WIDE), tl.float32)
    for first in range(part * share, min(part * share + share, n_in), DEEP):
        k = first + tl.arange(0, DEEP)
        inside = (row[:, None] < n_x) & (k < n_in)[None]
        value = tl.load(x + row[:, None].to(tl.int64) * n_in + k[None], mask=inside, other=0.0)
        inside = (col[:, None] < n_out) & (k < n_in)[None]
        code = tl.load(codes + col[:, None].to(tl.int64) * n_in + k[None], mask=inside, other=0.0)
        total = tl.dot(value, tl.trans(code.to(value.dtype)), total, input_precision="ieee")
    scale = tl.load(scales + col, mask=col < n_out, other=0.0)
    at = (part * n_x + row[:, None]).to(tl.int64) * n_out + col[None]
    tl.store(y + at, total * scale[None], mask=(row[:, None] < n_x) & (col < n_out)[None])
