"""The right runner for a model: packed for the processor, or the module as it is."""

import torch
from torch import Tensor

from puna.engine.blocks import BLOCK
from puna.engine.runner import Runner
from puna.engine.torch_runner import TorchRunner
from puna.kernels import native
from puna.kernels.decoder import Decoder
from puna.model.lora import LoraLinear
from puna.model.quantised import QuantLinear
from puna.model.transformer import Transformer


def runner_for(
    model: Transformer,
    kind: str | None = None,
    blocks: int | None = None,
    threads: int | None = None,
) -> Runner:
    """A runner with a cache of `blocks` blocks.

    kind: how the native decoder holds the weights (float32, bfloat16, int8, int4); where there is
    no native code, or the model is not on the processor, and for None, the module itself computes.
    A packed model does not follow the module's training, and has its adapters merged. blocks: None
    for a module in training, see `TorchRunner`; as many as one context needs for a packed one.
    """
    on_processor = model.output.weight.device.type == "cpu"
    if kind is None or not on_processor or native.available() is None:
        return TorchRunner(model, blocks)
    args = model.args
    count = blocks or -(-args.max_seq_len // BLOCK)
    return Decoder(args, lambda name: tensor_of(model, name), kind, count, threads, rope=model.rope)


def tensor_of(model: Transformer, name: str) -> Tensor:
    """A weight by Meta's name, dense and with its adapter, whatever the layer is."""
    place, _, last = name.rpartition(".")
    layer = model.get_submodule(place)
    if isinstance(layer, LoraLinear):
        return layer.dense()
    if isinstance(layer, QuantLinear):
        return layer.dense(torch.float32)
    weight: Tensor = getattr(layer, last)
    return weight.detach()
