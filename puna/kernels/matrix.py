"""One packed weight matrix and its product with activations."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from puna.kernels import native, pack, reference
from puna.kernels.native import GROUP, KINDS, LANES, MatrixRecord
from puna.kernels.pack import Quantised

ROWS = pack.ROWS


@dataclass(frozen=True)
class Matrix:
    """A weight matrix [rows, cols] as the kernels read it (`pack.interleave`)."""

    kind: str
    rows: int
    cols: int
    codes: Tensor  # flat uint8
    scales: Tensor | None  # flat float16
    zeros: Tensor | None  # flat uint8, in sixteenths of a code

    @classmethod
    def pack(cls, weight: Tensor, kind: str, importance: Tensor | None = None) -> "Matrix":
        """Round a matrix [out, in] to `kind` and lay it out (`pack.quantise`)."""
        quantised = pack.quantise(weight, kind, importance)
        return cls.laid(kind, weight.shape[1], *quantised)

    @classmethod
    def laid(
        cls, kind: str, cols: int, codes: Tensor, scales: Tensor | None, zeros: Tensor | None
    ) -> "Matrix":
        """A matrix from codes [out, cols padded to 32], scales and zeros of `pack.quantise`."""
        groups = -(-cols // GROUP)
        expected = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        expected |= {"int8": torch.int8, "int4": torch.uint8}
        if codes.dtype != expected[kind] or codes.ndim != 2 or codes.shape[1] != groups * GROUP:
            raise ValueError(f"codes are {codes.dtype} {list(codes.shape)}, not {kind} of {cols}")
        side = [tensor for tensor in (scales, zeros) if tensor is not None]
        if len(side) != {"int8": 1, "int4": 2}.get(kind, 0):
            raise ValueError(f"{len(side)} tensors beside the codes do not make {kind}")
        if any(tensor.shape != (codes.shape[0], groups) for tensor in side):
            raise ValueError(f"scales or zeros are not [{codes.shape[0]}, {groups}]")
        if kind == "int4" and codes.max() > 15:
            raise ValueError("a 4-bit code is above 15")
        if kind == "int8" and codes.min() < -127:
            raise ValueError("an 8-bit code is below -127")
        return cls(kind, codes.shape[0], cols, *pack.interleave(codes, scales, zeros))

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zeros."""
        return sum(t.nbytes for t in (self.codes, self.scales, self.zeros) if t is not None)

    def record(self) -> MatrixRecord:
        """Pointers for the library; they hold as long as this matrix does."""
        blocks, groups = -(-self.rows // ROWS) * ROWS // LANES, -(-self.cols // GROUP)
        rest = (t.data_ptr() if t is not None else None for t in (self.scales, self.zeros))
        return MatrixRecord(
            KINDS.index(self.kind),
            self.rows,
            self.cols,
            blocks,
            groups,
            self.codes.data_ptr(),
            *rest,
        )

    def separate(self) -> Quantised:
        """Codes [rows, cols padded], scales and zeros [rows, groups] (`pack.separate`)."""
        groups = -(-self.cols // GROUP)
        return pack.separate(self.rows, groups, self.codes, self.scales, self.zeros)

    def matmul(self, x: Tensor, threads: int | None = None, isa: str | None = None) -> Tensor:
        """x [T, cols] float32 times the matrix, [T, rows] float32.

        The integer kinds round each group of 32 activations to 8 bits. A token's result does not
        depend on the other tokens, the threads or the instruction set. Without the library torch
        computes it (`reference.product`).
        """
        if x.ndim != 2 or x.shape[1] != self.cols:
            raise ValueError(f"x has shape {list(x.shape)}, expected [T, {self.cols}]")
        x = native.floats(x, "x")
        if native.library() is None:
            return reference.product(x, *self.separate())
        out = torch.empty(x.shape[0], self.rows)
        if len(x):
            call = native.loaded().puna_multiply
            arguments = (ctypes.byref(self.record()), x.data_ptr(), len(x), out.data_ptr())
            native.check(call(native.number(isa), threads or native.cores(), *arguments))
        return out

    def dense(self) -> Tensor:
        """The matrix [rows, cols] that the codes stand for, float32."""
        return self.embed(torch.arange(self.rows))

    def embed(self, ids: Tensor) -> Tensor:
        """The rows of these numbers [n], float32 [n, cols]."""
        if ids.ndim != 1 or (len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.rows):
            raise ValueError(f"ids are not a list of numbers in 0..{self.rows - 1}")
        if native.library() is None:
            return pack.dense(*self.separate())[ids, : self.cols]
        ids = ids.to(torch.int32).contiguous()
        out = torch.empty(len(ids), self.cols)
        call = native.loaded().puna_read_rows
        call(ctypes.byref(self.record()), ids.data_ptr(), len(ids), out.data_ptr())
        return out
