"""What an error in each input of a matrix costs: the mean square of what comes in.

A few inputs of a Llama are many times larger than the others, whatever the text says, and the codes
of a 4-bit matrix must spare them: on weights off any 4-bit grid that takes two thirds off the
divergence (docs/log.md). So a model is shown a page, `PAGE` where nothing better is given, before
it is put into int4.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puna.model.transformer import Block, ModelArgs, rotary_table

# the matrices of a layer by what comes into them, in the order of computation
INPUTS = (
    ("attention.wq", "attention.wk", "attention.wv"),
    ("attention.wo",),
    ("feed_forward.w1", "feed_forward.w3"),
    ("feed_forward.w2",),
)
MOST = 512  # tokens of a page that are looked at
# prose, a list, speech, numbers and code, in our own words
PAGE = """The river had risen during the night, and by morning the lower road was gone. Anna stood
at the kitchen window with a cup of tea and counted the posts of the fence: nine yesterday, four
today. "We should move the goats," she said, but her brother was already pulling on his boots.

The town was founded in 1268 by fishermen from the north. In the 19th century it had about 4,300
inhabitants, two churches, a glass factory and a railway station, which was closed in 1971. Since
then most people have worked in the harbour or for the university; the old factory is a museum now.

To make bread you need:
1. 500 g of flour and 10 g of salt,
2. 350 ml of warm water with a little yeast in it,
3. time. Let it rest for three hours, then bake it at 230 degrees for 40 minutes.

Question: Why is the sky blue?
Answer: Sunlight is scattered by the air, and blue light, whose waves are short, is scattered more
than red light. In the evening the light takes a longer way through the air, so the blue is lost.

def mean(values):
    total = sum(values)
    return total / len(values) if values else 0.0

Dear Mr. Weber, thank you for your letter of 3 March. We can deliver 24 chairs at $39.50 each within
two weeks. If you order before the end of the month, we will not charge you for the transport.
"""


@torch.no_grad()
def importances(
    args: ModelArgs, tensors: Callable[[str], Tensor], ids: Sequence[int]
) -> dict[str, Tensor]:
    """The mean square [in] of what comes into every matrix of the layers, by Meta's names.

    tensors: gives a weight by its name; one layer is in memory at a time. ids: the page's tokens,
    of which the first 512, or as many as the context holds, are looked at.
    """
    seen = torch.tensor(list(ids)[: min(MOST, args.max_seq_len, args.sliding_window or MOST)])
    x = F.embedding(seen, tensors("tok_embeddings.weight").float())[None]
    turn = rotary_table(args)[: len(seen)].unsqueeze(-2)
    found: dict[str, Tensor] = {}
    for number in range(args.n_layers):
        with torch.device("meta"):  # shapes only
            layer = Block(args)
        weights = {n: tensors(f"layers.{number}.{n}").float() for n in layer.state_dict()}
        layer.load_state_dict(weights, assign=True)
        with squared(layer) as squares:
            x = layer(x, turn, None, None)
        found |= {f"layers.{number}.{name}.weight": square for name, square in squares.items()}
    return found


@contextmanager
def squared(layer: Block) -> Iterator[dict[str, Tensor]]:
    """While it is open: the mean square [in] of what last came into each matrix of a layer."""
    found: dict[str, Tensor] = {}
    handles = []
    for names in INPUTS:

        def keep(_: nn.Module, given: tuple[Tensor, ...], names: tuple[str, ...] = names) -> None:
            mean = given[0].flatten(0, -2).float().square().mean(0)
            found.update(dict.fromkeys(names, mean))

        handles.append(layer.get_submodule(names[0]).register_forward_pre_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
