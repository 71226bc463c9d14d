"""Every member of the family against transformers, through the folder that we write for it."""

import dataclasses
import itertools

import pytest
import torch

from puna.model import huggingface
from puna.model.checkpoint import from_source
from puna.model.presets import PRESETS
from puna.model.source import Source, Stored, expected_tensors
from puna.model.transformer import Cache, ModelArgs, RopeScaling, Transformer
from tests.models import generator

SHRUNK = {"dim": 64, "n_layers": 2, "n_heads": 8, "vocab_size": 97, "max_seq_len": 96}
FAMILY = {
    "llama1": ModelArgs(**SHRUNK, multiple_of=16, norm_eps=1e-6),
    "llama2": ModelArgs(**SHRUNK, multiple_of=16),
    "llama2-70b": ModelArgs(**SHRUNK, n_kv_heads=2, multiple_of=32, ffn_dim_multiplier=1.3),
    "codellama": ModelArgs(**SHRUNK, multiple_of=16, rope_theta=1e6),
    "tinyllama": ModelArgs(**SHRUNK, n_kv_heads=4, hidden_dim=176),
    "smollm2": ModelArgs(**{**SHRUNK, "dim": 72, "n_heads": 9}, n_kv_heads=3, tie_embeddings=True),
    "mistral": ModelArgs(**SHRUNK, n_kv_heads=2, hidden_dim=224, sliding_window=12),
    "llama3.1": ModelArgs(
        **{**SHRUNK, "dim": 128, "n_heads": 4},
        n_kv_heads=2,
        rope_theta=1e4,
        rope_scaling=RopeScaling(original_max_seq_len=24),
    ),
    "llama3.2": ModelArgs(
        **SHRUNK,
        n_kv_heads=2,
        tie_embeddings=True,
        rope_scaling=RopeScaling(factor=32.0, original_max_seq_len=16),
    ),
}


def random_source(args: ModelArgs, dtype=torch.float32, seed: int = 0) -> Source:
    """Weights large enough that attention is far from uniform and the norms differ from one."""
    draw, tensors = generator(seed), {}
    for name, shape in expected_tensors(args).items():
        noise = torch.randn(shape, generator=draw)
        value = (0.15 * noise if len(shape) > 1 else 1 + 0.3 * noise).to(dtype)
        tensors[name] = Stored(shape, dtype, lambda value=value: value.clone())
    return Source(args, tensors, None)


def tokens(args: ModelArgs, rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, args.vocab_size, (rows, length), generator=generator(seed))


def theirs(source: Source, folder, **options):
    """transformers' model of the folder that we write."""
    transformers = pytest.importorskip("transformers", reason="needs transformers to compare with")
    folder.mkdir()
    huggingface.write_folder(source, folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", **options
    )
    return model.eval()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FAMILY)
def test_logits_of_every_member_are_those_of_transformers(name, tmp_path):
    args = FAMILY[name]
    source = random_source(args)
    ids = tokens(args, 3, 80)
    with torch.inference_mode():
        wanted = theirs(source, tmp_path / "hf", dtype=torch.float32)(ids).logits
        found = from_source(source)(ids)
    scale = wanted.abs().max()
    assert (found - wanted).abs().max() <= 1e-4 * scale
    assert torch.equal(found.argmax(-1), wanted.argmax(-1))


@pytest.mark.parametrize("name", FAMILY)
def test_a_folder_that_we_write_is_read_back_bit_by_bit(name, tmp_path):
    source = random_source(FAMILY[name])
    huggingface.write_folder(source, tmp_path)
    back = huggingface.open_folder(tmp_path)
    assert dataclasses.replace(back.args, multiple_of=0, ffn_dim_multiplier=None) == (
        dataclasses.replace(
            source.args,
            n_kv_heads=source.args.kv_heads,
            hidden_dim=source.args.ffn_dim,
            multiple_of=0,
            ffn_dim_multiplier=None,
        )
    )
    assert {n: t.read().tolist() for n, t in back.tensors.items()} == {
        n: t.read().tolist() for n, t in source.tensors.items()
    }


@pytest.mark.parametrize("name", ["mistral", "llama3.1", "smollm2"])
def test_token_by_token_with_a_cache_gives_the_logits_of_one_pass(name):
    model = from_source(random_source(FAMILY[name]))
    ids = tokens(model.args, 2, 40)
    cache = Cache(model.args, 2, 40)
    with torch.inference_mode():
        whole = model(ids)
        parts = [
            model(ids[:, i : i + 1], torch.full((2, 1), i), cache=cache)
            for i in range(ids.shape[1])
        ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)


def test_a_window_hides_what_is_a_window_or_more_places_back():
    args = dataclasses.replace(FAMILY["mistral"], n_layers=1)
    model = from_source(random_source(args))
    ids = tokens(args, 1, 40)
    other = ids.clone()
    other[0, 5] = (ids[0, 5] + 1) % args.vocab_size
    changed = (model(ids) != model(other)).any(-1)[0].nonzero().flatten().tolist()
    assert changed == list(range(5, 5 + args.sliding_window))


def test_a_window_counts_places_in_a_document_and_not_columns_of_a_row():
    model = from_source(random_source(FAMILY["mistral"]))
    ids = tokens(model.args, 1, 50)
    one, two = ids[:, :20], ids[:, 20:]
    positions = torch.cat((torch.arange(20), torch.arange(30)))[None]
    document = torch.tensor([0] * 20 + [1] * 30)
    order = torch.arange(50)
    mask = (document[:, None] == document) & (order[:, None] >= order)
    with torch.inference_mode():
        packed = model(ids, positions, mask[None, None])
        apart = torch.cat((model(one), model(two)), 1)
    torch.testing.assert_close(packed, apart, rtol=1e-4, atol=1e-4)


def test_a_tied_output_is_the_embedding_and_one_tensor():
    model = Transformer(FAMILY["smollm2"]).init_weights(generator())
    assert model.output.weight is model.tok_embeddings.weight
    assert "output.weight" not in model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == sum(
        torch.Size(shape).numel() for shape in expected_tensors(model.args).values()
    )


@pytest.mark.parametrize("name", PRESETS)
def test_the_expected_tensors_are_those_of_the_module(name):
    small = dataclasses.replace(PRESETS[name], n_layers=1, max_seq_len=8)
    with torch.device("meta"):
        found = {n: tuple(t.shape) for n, t in Transformer(small).state_dict().items()}
    assert found == expected_tensors(small)


def test_bfloat16_agrees_with_its_own_float32():
    source = random_source(FAMILY["llama2-70b"], torch.bfloat16)
    whole, half = from_source(source), from_source(source, torch.bfloat16)
    ids = tokens(whole.args, 4, 64)
    with torch.inference_mode():
        wanted, found = whole(ids), half(ids)
    assert half.output.weight.dtype == torch.bfloat16 and found.dtype == torch.float32
    # bfloat16 has 8 bits: 2 layers of sums stay within a few parts in a hundred of the scale.
    assert (found - wanted).abs().mean() <= 0.02 * wanted.abs().max()


# --- the initialisation, which the paper leaves open


def residual_widths(n_layers: int) -> list[float]:
    """Root mean square of the residual stream after every layer of a new model."""
    args = ModelArgs(dim=128, n_layers=n_layers, n_heads=4, vocab_size=512, max_seq_len=64)
    model = Transformer(args).init_weights(generator())
    widths: list[float] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _m, _i, out: widths.append(out.square().mean().item()))
    with torch.inference_mode():
        model(tokens(args, 4, 64))
    return [width**0.5 for width in widths]


def test_a_new_models_residual_stream_ends_as_wide_at_any_depth():
    ends = [residual_widths(depth)[-1] for depth in (2, 8, 32)]
    assert max(ends) <= 1.15 * min(ends)


def test_a_new_models_residual_stream_grows_evenly_over_its_layers():
    squares = [width**2 for width in residual_widths(32)]
    steps = [after - before for before, after in itertools.pairwise(squares)]
    assert max(steps) <= 2 * min(steps)


def test_a_new_model_guesses_evenly():
    args = ModelArgs(dim=128, n_layers=4, n_heads=4, vocab_size=512, max_seq_len=64)
    ids = tokens(args, 8, 64)
    with torch.inference_mode():
        logits = Transformer(args).init_weights(generator())(ids)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - torch.tensor(512.0).log().item()) < 0.02
