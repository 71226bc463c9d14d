"""Opening a model for a worker, and a worker with a real, tiny one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from puna.engine import opening, worker
from puna.engine.blocks import BLOCK, blocks_for
from puna.engine.engine import Engine
from puna.engine.stops import Stops
from puna.engine.torch_runner import TorchRunner
from puna.errors import InputError
from puna.kernels import native
from puna.kernels.decoder import Decoder
from puna.model import checkpoint, lora, peft
from puna.model.importance import PAGE, importances
from puna.model.lora import LoraConfig
from puna.model.predictors import Native
from puna.model.presets import cache_bytes_per_token
from puna.text import wire
from puna.text.completion import Grammar, SamplingParams
from puna.text.tokenizer import Tokenizer
from tests.models import ARGS, generator, random_model
from tests.test_worker import ROOT, SECONDS, Client, connected, wait_for

GREEDY = SamplingParams(temperature=0, max_tokens=8)
PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13], [20]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Path:
    """A checkpoint of a tiny model."""
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    checkpoint.save(folder, random_model(ARGS), tiny_tokenizer)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Path:
    """A large adapter of it in PEFT's format."""
    model = lora.attach(checkpoint.load(place)[0], LoraConfig(rank=2, alpha=8), generator(1))
    for name, tensor in lora.adapter_tensors(model).items():
        if name.endswith("lora_b"):
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator(2)))
    folder = tmp_path_factory.mktemp("adapter")
    peft.write_peft(folder, model, str(place))
    return folder


def settings(place: Path, *words: str):
    return worker.parser().parse_args(["--model", str(place), "--socket", "s", *words])


def greedy(engine: Engine, adapter: str | None = None) -> list[list[int]]:
    """What an engine answers to PROMPTS, request by request."""
    from puna.engine.sequence import Request

    found: dict[str, list[int]] = {}
    for number, prompt in enumerate(PROMPTS):
        engine.add(Request(str(number), prompt, GREEDY, adapter=adapter))
    while not engine.idle:
        for output in engine.step():
            found.setdefault(output.id, []).extend(output.ids)
    return [found[str(number)] for number in range(len(PROMPTS))]


def test_the_plain_runner_and_the_packed_one_say_the_same(place: Path) -> None:
    if native.available() is None:
        pytest.skip("there are no native kernels here")
    packed, _ = worker.load(settings(place))
    plain, _ = worker.load(settings(place, "--quant", "none"))
    assert isinstance(plain.runner, TorchRunner) and not isinstance(packed.runner, TorchRunner)
    assert greedy(packed) == greedy(plain)


@pytest.mark.parametrize("quant", ["none", "float32"])
def test_an_adapter_answers_as_the_merged_model_does(
    place: Path, adapter: Path, quant: str, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    if quant != "none" and native.available() is None:
        pytest.skip("there are no native kernels here")
    engine, hello = worker.load(
        settings(place, "--quant", quant, "--adapter", f"fr={adapter}", "--rows", "4")
    )
    assert hello.adapters == ["fr"]
    whole, _ = worker.load(settings(adapter, "--quant", quant))
    merged, plain = greedy(whole), greedy(engine)
    assert greedy(engine, "fr") == merged != plain


def test_a_draft_model_changes_no_answer_and_saves_steps(place: Path) -> None:
    alone, _ = worker.load(settings(place))
    helped, _ = worker.load(settings(place, "--draft", str(place)))
    assert greedy(alone) == greedy(helped)
    assert helped.counters["steps"] < alone.counters["steps"]


def test_hello_says_what_the_worker_has(place: Path, tiny_tokenizer: Tokenizer) -> None:
    _, hello = worker.load(settings(place, "--blocks", "7", "--context", "24"))
    assert (hello.context, hello.blocks, hello.vocab_size) == (24, 7, ARGS.vocab_size)
    assert (hello.format, hello.kind) == (tiny_tokenizer.format, "float32")
    assert Path(hello.tokenizer).is_file()


def test_a_cache_smaller_than_a_context_makes_the_context_smaller(place: Path) -> None:
    engine, hello = worker.load(settings(place, "--blocks", "1"))
    assert hello.context == engine.room == BLOCK


REFUSED = [
    (["--context", "33"], "context: 33 tokens given, expected at most the model's 32"),
    (["--kv-memory", "100"], "kv-memory: 100 bytes given, expected at least"),
    (["--adapter", "fr"], "adapter: 'fr' given, expected NAME=PATH"),
    (["--adapter", "=x"], "adapter: '=x' given, expected NAME=PATH"),
    (["--adapter", "fr=/nonexistent"], "adapter_config.json"),
    (["--adapter", "a=x", "--adapter", "a=y"], "the name 'a' is given twice"),
    (["--draft", "/nonexistent"], "does not exist"),
    (["--format", "chatml"], "no special token"),
]


@pytest.mark.parametrize(("words", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_what_cannot_be_followed_is_refused_by_name(
    place: Path, words: list[str], told: str
) -> None:
    with pytest.raises(InputError) as caught:
        worker.load(settings(place, *words))
    assert told in str(caught.value)


def test_an_adapter_of_other_weights_is_refused(
    place: Path, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    other = tmp_path / "other"
    checkpoint.save(other, random_model(ARGS, 1), tiny_tokenizer)
    model, tokenizer = checkpoint.load_tuned(other, LoraConfig(rank=2), generator(3))
    checkpoint.save(tmp_path / "adapter", model, tokenizer)
    words = ("--adapter", f"a={tmp_path / 'adapter'}")
    assert worker.load(settings(other, *words))[1].adapters == ["a"]
    with pytest.raises(InputError, match="made for other weights"):
        worker.load(settings(place, *words))


def test_the_cache_is_a_quarter_of_the_memory_or_what_all_rows_can_fill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = cache_bytes_per_token(ARGS, 4)
    monkeypatch.setattr(opening, "available_bytes", lambda: 2**40)
    assert opening.Pool(3).size(100, token) == 3 * blocks_for(100)
    memory = 4 * opening.LEAST_BYTES + 4 * 10**6
    monkeypatch.setattr(opening, "available_bytes", lambda: memory)
    assert opening.Pool(10**6).size(1000, token) == memory // 4 // (token * BLOCK)
    assert opening.Pool(1, bytes=10**6).size(1000, token) == 10**6 // (token * BLOCK)


def test_a_worker_process_with_a_real_model_answers_as_the_engine_does(
    place: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "s"
    command = [sys.executable, "-m", "puna.engine.worker", "--model", str(place)]
    process = subprocess.Popen(
        [*command, "--socket", str(path), "--threads", "1"], cwd=ROOT, stderr=subprocess.PIPE
    )
    try:
        wait_for(path)
        client = connected(path)
        expected = [
            answer[0] for answer in worker.load(settings(place))[0].generate_ids(PROMPTS, GREEDY)
        ]
        for number, prompt in enumerate(PROMPTS):
            client.send(wire.Generate(id=str(number), prompt=prompt, params=GREEDY))
        assert answered(client) == [list(one.ids) for one in expected]
        client.send(wire.Embed(id="e", prompts=PROMPTS))
        vectors = client.until(wire.Embedded).vectors
        assert [len(vector) for vector in vectors] == [4 * ARGS.dim] * len(PROMPTS)
        values = client.counters()
        assert values["blocks_used"] == 0 and values["finished"] == len(PROMPTS)
        client.close()
        process.terminate()
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.communicate()


def answered(client: Client) -> list[list[int]]:
    """The tokens of the answers to PROMPTS."""
    found: dict[str, list[int]] = {str(number): [] for number in range(len(PROMPTS))}
    dones = 0
    while dones < len(PROMPTS):
        record = client.next()
        if isinstance(record, wire.Piece):
            found[record.id] += record.ids
        dones += isinstance(record, wire.Done)
    return list(found.values())


def test_a_tag_inside_what_a_grammar_allows_is_text_like_any_other(
    tiny_tokenizer: Tokenizer,
) -> None:
    asked = '"[INST] a"'
    for grammar, shown in ((Grammar("regex", '".*"'), asked), (None, '"')):
        stops = Stops(tiny_tokenizer, SamplingParams(grammar=grammar))
        ids = tiny_tokenizer.encode(asked)
        text = "".join(map(stops.push, ids)) + stops.flush()
        assert text.strip() == shown


def test_int4_has_the_codes_that_puna_quantise_measures_at_any_context(place: Path) -> None:
    if native.available() is None:
        pytest.skip("there are no native kernels here")
    found = opening.find(place)
    read = {name: tensor.read for name, tensor in found.source.tensors.items()}
    counts = importances(found.source.args, lambda name: read[name](), found.tokenizer.encode(PAGE))
    expected = Native(found.source.args, read, "int4", counts).decoder.matrices
    plain = Native(found.source.args, read, "int4").decoder.matrices
    for context in (None, 20):
        runner = opening.open_runner(opening.find(place, context), "int4").runner
        assert isinstance(runner, Decoder)
        codes = [matrix.dense() for matrix in runner.matrices]
        assert all(torch.equal(a, b.dense()) for a, b in zip(codes, expected, strict=True))
        assert not all(torch.equal(a, b.dense()) for a, b in zip(codes, plain, strict=True))


def test_without_the_kernels_one_line_says_so_and_int8_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU needs no native kernels")
    expected = greedy(worker.load(settings(place, "--quant", "none"))[0])
    monkeypatch.setattr(native, "__file__", "/nowhere/native.py")
    for cached in (native.library, native.available):
        cached.cache_clear()
    try:
        engine, hello = worker.load(settings(place, "--draft", str(place)))
        with pytest.raises(InputError, match="quant: int8 needs the native kernels, which were"):
            worker.load(settings(place, "--quant", "int8"))
    finally:
        for cached in (native.library, native.available):
            cached.cache_clear()
    assert (greedy(engine), hello.kind) == (expected, "float32")
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("puna")]
    assert "torch answers instead" in line and "C++ compiler" in line and "\n" not in line
