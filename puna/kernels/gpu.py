"""Linear layers in int8, int4 and fp8 for a GPU: the codes are read, the inputs stay as they are.

One input goes through a kernel that sums rows, up to 64 through tiles, more through the dense
matrix, made for that product and forgotten (then the product costs more than the matrix). On the
CPU the dense matrix is the reference that the kernels are compared with; the CPU's own kernels are
in `puna.kernels.native`.

With `invariant`, every number of inputs goes through tiles, and the result for an input is the
same bit for bit alone and in company.
"""

import importlib
from functools import cache
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puna.errors import InputError
from puna.kernels.quantise import GROUP, Codes, dense, grouped, quantise

TILED = 64  # inputs at most for tiles, without `invariant`
TALL, WIDE, SPAN = 16, 32, 4  # a tile: inputs, outputs, groups
ROWS = 4  # rows of the matrix in a program for one input
PROGRAMS = 512  # that keep every core of a large GPU busy


def refuse_kind(kind: str, device: str) -> None:
    """InputError for a kind that a device has no kernel for."""
    if kind == "fp8" and torch.device(device).type == "cpu":
        raise InputError("quant is 'fp8': pays on a GPU only, expected int8 on a CPU")


class QuantisedLinear(nn.Module):
    """x [..., in] to [..., out], in x's type, by a matrix in codes."""

    scales: Tensor
    zeros: Tensor
    codes: Tensor

    def __init__(self, codes: Codes, invariant: bool = False):
        super().__init__()
        self.out_features, self.in_features = codes.codes.shape
        self.invariant = invariant
        self.kind = "fp8" if codes.codes.dtype == torch.float8_e4m3fn else "int8"
        self.kind = self.kind if codes.zeros is None else "int4"
        packed = pack(codes.codes) if self.kind == "int4" else codes.codes
        self.register_buffer("codes", packed.contiguous())
        self.register_buffer("scales", codes.scales.contiguous())
        self.register_buffer("zeros", None if codes.zeros is None else codes.zeros.contiguous())

    def dense(self) -> Tensor:
        """The matrix [out, in] that the codes stand for, float32."""
        codes = self.codes
        if self.kind == "int4":
            codes = unpack(codes, self.in_features)
        return dense(Codes(codes, self.scales, self.zeros))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        few = len(flat) <= TILED or self.invariant
        if not (x.is_cuda and few):
            return F.linear(x, self.dense().to(x.dtype))
        product = self.row if len(flat) == 1 and not self.invariant else self.tiles
        return product(flat.contiguous()).to(x.dtype).view(*x.shape[:-1], self.out_features)

    def row(self, x: Tensor) -> Tensor:
        """The product with one input [1, in], in its type; x is contiguous."""
        kernels, (n_out, n_in) = triton_products(), (self.out_features, self.in_features)
        y = torch.empty(1, n_out, dtype=x.dtype, device=x.device)
        grid = (-(-n_out // ROWS),)
        if self.kind == "fp8":
            kernels.row_fp8[grid](x, self.codes, self.scales, y, n_out, n_in, ROWS=ROWS, SPAN=1024)
            return y
        given = (self.scales,) if self.kind == "int8" else (self.scales, self.zeros)
        kernel = kernels.row_int8 if self.kind == "int8" else kernels.row_int4
        groups = -(-n_in // GROUP)
        kernel[grid](x, self.codes, *given, y, n_out, n_in, groups, ROWS=ROWS, SPAN=32)
        return y

    def tiles(self, x: Tensor) -> Tensor:
        """The product with inputs [n, in], float32 [n, out]; x is contiguous."""
        kernels, (n_out, n_in) = triton_products(), (self.out_features, self.in_features)
        groups, across = -(-n_in // GROUP), -(-n_out // WIDE)
        # of the sum; by the matrix alone
        parts = max(1, min(PROGRAMS // across, groups // (4 * SPAN), 16))
        share = -(-groups // (parts * SPAN)) * SPAN  # groups of a part
        parts = -(-groups // share)
        y = torch.empty(parts, len(x), n_out, device=x.device)
        grid = (-(-len(x) // TALL), across, parts)
        sizes = (y, len(x), n_out, n_in)
        if self.kind == "fp8":
            kernels.tile_fp8[grid](
                *(x, self.codes, self.scales, *sizes, share * GROUP),
                **{"TALL": TALL, "WIDE": WIDE, "DEEP": SPAN * GROUP},
            )
            return y.sum(0) if parts > 1 else y[0]
        given = (self.scales,) if self.kind == "int8" else (self.scales, self.zeros)
        kernel = kernels.tile_int8 if self.kind == "int8" else kernels.tile_int4
        kernel[grid](
            *(x, self.codes, *given, *sizes, groups, share), TALL=TALL, WIDE=WIDE, SPAN=SPAN
        )
        return y.sum(0) if parts > 1 else y[0]


def pack(codes: Tensor) -> Tensor:
    """Codes of 4 bits [out, in] to bytes [out, groups, 16]: code j below code j + 16."""
    groups = grouped(codes)
    return groups[..., : GROUP // 2] | groups[..., GROUP // 2 :] << 4


def unpack(packed: Tensor, size: int) -> Tensor:
    """Bytes [out, groups, 16] to codes [out, size]."""
    return torch.cat((packed & 15, packed >> 4), 2).flatten(1)[:, :size]


@torch.no_grad()
def quantise_linears(model: nn.Module, kind: str, invariant: bool = False) -> nn.Module:
    """Put every linear layer and the output projection of a model into `kind`, in place.

    The output of an int4 model is in int8. An embedding stays as it is, also where the output is
    tied to it: the output then has codes of its own. InputError as in `quantise`.
    """
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) or n == "output"]
    for name, module in found:
        matrix = module.weight
        assert isinstance(matrix, Tensor)
        stored = "int8" if kind == "int4" and name == "output" else kind
        room, _, last = name.rpartition(".")
        layer = QuantisedLinear(quantise(matrix, stored), invariant)
        setattr(model.get_submodule(room), last, layer)
    return model


@cache
def triton_products() -> ModuleType:
    """The kernels. InputError: Triton, which comes with PyTorch for CUDA, is not installed."""
    try:
        return importlib.import_module("puna.kernels.triton_products")
    except ModuleNotFoundError as error:
        raise InputError(f"quant needs {error.name}, which PyTorch for CUDA brings") from None
