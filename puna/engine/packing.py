"""The right runner for a model: packed for the processor, or the module as it is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from puna.engine.blocks import BLOCK
from puna.engine.runner import Live, Row, Runner
from puna.engine.torch_runner import TorchRunner
from puna.kernels import native
from puna.kernels.decoder import WIDEST_HEAD, Decoder
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
    on_processor = model.tok_embeddings.weight.device.type == "cpu"
    if kind is None or not on_processor or native.available() is None:
        return TorchRunner(model, blocks)
    args = model.args
    count = blocks or -(-args.max_seq_len // BLOCK)
    return Decoder(args, lambda name: tensor_of(model, name), kind, count, threads, rope=model.rope)


KINDS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}  # that change no weight


def live_runner(model: Transformer) -> Live:
    """The runner for weights in training: native on the processor, else the module itself.

    Where the trunk is quantised (QLoRA), a packed copy would be several times as large as it.
    """
    weight, args = model.tok_embeddings.weight, model.args
    fits = args.head_dim % 2 == 0 and args.head_dim <= WIDEST_HEAD and weight.dtype in KINDS
    coded = any(isinstance(layer, QuantLinear) for layer in model.modules())
    if weight.device.type == "cpu" and fits and not coded and native.available() is not None:
        return LiveDecoder(model)
    return TorchRunner(model)


class LiveDecoder:
    """The native decoder over a module in training, adapters merged.

    The weights are packed when the cache is first needed after `reserve(0)`, and dropped with it:
    an engine does both for each call, so that answers come from the weights of that moment.
    """

    elastic = True
    block_size = BLOCK
    adapters: tuple[str, ...] = ()

    def __init__(self, model: Transformer):
        self.packed: Decoder | None
        self.load(model)

    def load(self, model: Transformer) -> None:
        """Compute with another module, from an empty cache."""
        self.packed, self.model, self.n_blocks = None, model, 0
        self.vocab_size, self.context = model.args.vocab_size, model.args.max_seq_len

    def reserve(self, blocks: int) -> None:
        """Make the cache `blocks` large. A larger one keeps what was there; 0 drops all."""
        if blocks == 0:
            self.packed = None
        elif self.packed is None:
            kind, threads = KINDS[self.model.tok_embeddings.weight.dtype], torch.get_num_threads()
            packed = runner_for(self.model, kind, blocks, min(threads, native.cores()))
            assert isinstance(packed, Decoder)
            self.packed = packed
        else:
            self.packed.resize(blocks)
        self.n_blocks = blocks

    def there(self) -> Decoder:
        """The packed model. RuntimeError before `reserve`."""
        if self.packed is None:
            raise RuntimeError("nothing is reserved")
        return self.packed

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Logits of the wanted tokens in order, float32 [sum(wanted), vocab_size]."""
        return self.there().forward(rows)

    def embed(self, rows: Sequence[Row]) -> Tensor:
        """The last hidden states of the wanted tokens, float32 [sum(wanted), dim]."""
        return self.there().embed(rows)

    def copy_block(self, source: int, target: int) -> None:
        """Make the block `target` a copy of `source`."""
        self.there().copy_block(source, target)


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
