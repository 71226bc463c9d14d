"""Checks of shapes whose messages name both sides."""

from torch import Tensor


def same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of different shapes (no broadcasting); ValueError names the two at odds."""
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != reference.shape:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}, {first} has {list(reference.shape)}"
            )


def axes(number: int, **tensors: Tensor) -> None:
    """Refuse a tensor that has not exactly `number` axes; ValueError names it and its shape."""
    for name, tensor in tensors.items():
        if tensor.ndim != number:
            plural = "axis" if number == 1 else "axes"
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}, a tensor of {number} {plural} was expected"
            )


def boolean(**tensors: Tensor) -> None:
    """Refuse a mask that is not bool, so that a 0/1 float is never taken for one; ValueError."""
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point or tensor.dtype.itemsize != 1:
            raise ValueError(f"{name} is {tensor.dtype}, a bool mask was expected")
