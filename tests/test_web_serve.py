"""`puna serve` as a whole: its settings, and the real worker with a small model behind it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx2
import openai
import pytest

from puna import cli, config
from puna.errors import InputError
from puna.web import serve
from tests.web import until

USER = [{"role": "user", "content": "tea"}]


def refusal(*words) -> str:
    """What `puna serve` says to these settings."""
    with pytest.raises(InputError) as caught, pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve, "log_to_stderr", lambda: None)  # it would outlive this test
        serve.main(config.load(serve.Config, words))
    return str(caught.value)


def test_another_machine_s_address_needs_keys():
    assert "needs --keys=FILE" in refusal("--models=a", "--host=0.0.0.0")
    assert "needs --keys=FILE" in refusal("--models=a", "--host=::")


def test_models_and_adapters_need_different_names(tmp_path):
    assert "expected at least one" in refusal()
    assert "two are called b" in refusal("--models=a/b,c/b")
    assert "two that are called x" in refusal("--models=a", "--adapters=x=1,x=2")
    assert "MODEL:NAME=PATH" in refusal("--models=a,b", "--adapters=x=1")
    assert "is no name" in refusal("--models=a b")


def test_a_model_is_named_after_its_place():
    assert serve.name_of("runs/cafe/sft/checkpoint") == "sft"
    assert serve.name_of("hf:owner/name") == "name"
    assert serve.name_of("models/tiny.gguf") == "tiny"
    assert serve.name_of("smollm2") == "smollm2"


def test_every_setting_of_a_worker_reaches_its_command_line():
    given = config.load(
        serve.Config,
        [
            *("--models=x=a", "--adapters=fr=b", "--quant=int8", "--draft=d", "--context=64"),
            *("--threads=2", "--kv-memory=1G", "--rows=3"),
        ],
    )
    found = " ".join(serve.models_of(given)["x"].worker._source.command)
    for option in ("--model a", "--adapter fr=b", "--quant int8", "--draft d", "--context 64"):
        assert option in found
    assert "--threads 2" in found and "--kv-memory 1G" in found and "--rows 3" in found


def test_the_command_line_takes_several_models():
    words = cli._name_positional("serve", ["a", "x=b", "--port=1"])
    assert config.load(serve.Config, words).models == ("a", "x=b")


def test_a_new_key_is_printed_once(tmp_path, capsys):
    path = tmp_path / "keys.toml"
    assert cli.main(["serve", f"--keys={path}", "--new-key=alice"]) == 0
    assert capsys.readouterr().out.strip().startswith("puna-")
    assert cli.main(["serve", f"--keys={path}", "--new-key=alice"]) == 2
    assert cli.main(["serve", "--new-key=alice"]) == 2


def test_a_taken_port_is_one_line(tmp_path, capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["serve", "a", f"--port={taken.getsockname()[1]}"]) == 2
    assert "cannot listen" in capsys.readouterr().err


class Served:
    """`puna serve` in a process of its own."""

    def __init__(self, *words: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "puna", "serve", *words, "--port=0", "--threads=1"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with self.process.stderr as lines:
            for line in lines:
                self.lines.append(line)  # one by one, to be read meanwhile

    @property
    def url(self) -> str:
        """The address that it told."""
        assert until(lambda: "listening on" in "".join(self.lines), 60), self.lines
        return re.search(r"http://[\d.:]+", "".join(self.lines)).group()

    def health(self) -> int:
        """The status of /health; 0 without an answer."""
        try:
            return httpx2.get(f"{self.url}/health", timeout=5, verify=False).status_code
        except httpx2.HTTPError:
            return 0

    def end(self, number=signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def served(tmp_path_factory, tiny_tokenizer):
    from puna.model import checkpoint
    from tests.models import new_model

    folder = tmp_path_factory.mktemp("serve") / "base"
    checkpoint.save(folder, new_model(), tiny_tokenizer)
    found = Served(f"tiny={folder}", "--quant=float32", "--grace=2")
    try:
        assert until(lambda: found.health() == 200, 90), found.lines
        yield found
    finally:
        found.process.kill()
        found.process.wait()


@pytest.fixture
def client(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=30)


@pytest.mark.slow
def test_the_real_worker_answers_alike_whole_streamed_and_in_company(client):
    ask = {"model": "tiny", "messages": USER, "seed": 5, "max_tokens": 8, "temperature": 1.0}
    whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
    chunks = list(client.chat.completions.create(**ask, stream=True))
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content
    assert whole.usage.completion_tokens <= 8
    assert all(len(t.top_logprobs) == 3 for t in whole.choices[0].logprobs.content)
    several = client.chat.completions.create(**ask, n=4)
    assert several.choices[0].message.content == said
    assert whole.model_extra["timings"]["prompt_seconds"] > 0


@pytest.mark.slow
def test_the_real_worker_keeps_to_a_grammar(client):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    reply = client.chat.completions.create(
        model="tiny", messages=USER, response_format=form, max_tokens=18
    )
    assert json.loads(reply.choices[0].message.content)["a"] in (1, 2)
    wrong = {"type": "regex", "pattern": "(a"}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=USER, response_format=wrong)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["(a+)+$", "(?:x{1,1000}){1,1000}", "a{20000}", "(((a?)?)?)*"])
def test_a_costly_pattern_is_compiled_within_a_budget_or_refused(client, served, pattern):
    form = {"type": "regex", "pattern": pattern}
    try:
        client.chat.completions.create(
            model="tiny", messages=USER, response_format=form, max_tokens=2
        )
    except openai.BadRequestError:
        pass
    assert served.health() == 200


@pytest.mark.slow
def test_the_real_worker_scores_prompts_and_embeds(client):
    reply = client.completions.create(
        model="tiny", prompt="Do you have tea?", echo=True, logprobs=2, max_tokens=0
    )
    scores = reply.choices[0].logprobs.token_logprobs
    assert scores[0] is None and all(score < 0 for score in scores[1:])
    first, second = client.embeddings.create(model="tiny", input=["tea", "tea"]).data
    assert first.embedding == second.embedding and len(first.embedding) == 32


@pytest.mark.slow
def test_the_first_lines_say_what_is_served_and_how_to_ask(served):
    assert until(lambda: "curl" in "".join(served.lines))
    first = "".join(served.lines)
    assert f"listening on {served.url}/v1; loading tiny" in first
    assert "float32 weights, 1 threads, a context of 32 tokens, a cache of" in first
    [command] = [line for line in served.lines if "curl" in line]
    found = subprocess.run(
        [*shlex.split(command), "-s"], capture_output=True, text=True, timeout=30
    )
    assert json.loads(found.stdout)["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.slow
def test_a_killed_worker_comes_back(client, served):
    [worker] = [
        int(line) for line in children(served.process.pid) if "puna.engine.worker" in command(line)
    ]
    os.kill(worker, signal.SIGKILL)
    assert until(lambda: served.health() == 503, 10)
    assert until(lambda: served.health() == 200, 60), served.lines
    reply = client.chat.completions.create(model="tiny", messages=USER, max_tokens=2)
    assert reply.usage.completion_tokens > 0


def children(parent: int) -> list[str]:
    """The processes that a process started."""
    with open(f"/proc/{parent}/task/{parent}/children") as file:
        return file.read().split()


def command(process: str) -> str:
    """The command line of a process."""
    with open(f"/proc/{process}/cmdline") as file:
        return file.read()


@pytest.mark.slow
def test_sigterm_ends_the_server_with_status_0_after_what_runs(client, served):
    # The last test of the file: the server ends.
    replies = client.chat.completions.create(
        model="tiny", messages=USER, stream=True, max_tokens=18, extra_body={"ignore_eos": True}
    )
    next(iter(replies))
    worker = children(served.process.pid)
    begun = time.monotonic()
    assert served.end() == 0
    assert time.monotonic() - begun < 20
    assert list(replies)
    assert not any(os.path.exists(f"/proc/{process}") for process in worker)
    assert "stopped" in "".join(served.lines)


@pytest.mark.slow
def test_a_model_that_is_not_there_ends_the_command_with_one_line(tmp_path):
    served = Served(str(tmp_path / "nothing"))
    assert served.process.wait(60) == 2
    served.reader.join(5)
    assert "puna serve:" in served.lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize("signalled", ["server", "all"])
@pytest.mark.parametrize(("grace", "tokens"), [(60.0, 600), (2.0, 8000)])
def test_fifty_streams_end_within_the_grace_that_was_given(
    tmp_path, tiny_tokenizer, grace, tokens, signalled
):
    from puna.model import checkpoint
    from tests.models import ARGS, random_model

    model = random_model(replace(ARGS, max_seq_len=8192))
    checkpoint.save(tmp_path / "base", model, tiny_tokenizer)
    served = Served(f"tiny={tmp_path / 'base'}", f"--grace={grace}")
    body = {"model": "tiny", "prompt": [1, 5], "max_tokens": tokens, "ignore_eos": True}
    begun = threading.Semaphore(0)

    def stream(number: int) -> str:
        with httpx2.stream(
            "POST",
            f"{served.url}/v1/completions",
            json={**body, "seed": number, "stream": True},
            timeout=90,
            verify=False,
        ) as reply:
            last = ""
            for line in reply.iter_lines():
                if not last and line:
                    begun.release()
                last = line or last
            return last

    try:
        assert until(lambda: served.health() == 200, 90), served.lines
        workers = [int(process) for process in children(served.process.pid)]
        with ThreadPoolExecutor(50) as pool:
            streams = [pool.submit(stream, number) for number in range(50)]
            assert all(begun.acquire(timeout=60) for _ in streams)
            told = time.monotonic()
            for process in workers if signalled == "all" else []:  # as systemd does
                os.kill(process, signal.SIGTERM)
            served.process.send_signal(signal.SIGTERM)
            ends = [reply.result(90) for reply in streams]
            took = time.monotonic() - told
        assert served.process.wait(30) == 0
        if grace > 10:
            assert set(ends) == {"data: [DONE]"}
        else:
            codes = [json.loads(end.removeprefix("data: "))["error"]["code"] for end in ends]
            assert set(codes) == {"stopping"}
            assert took > grace - 0.5
        assert took < grace + 5  # END_SECONDS: for the errors to be read
    finally:
        served.process.kill()
        served.process.wait()


def test_the_example_that_the_server_prints_is_a_command_that_asks_it():
    words = shlex.split(serve.curl("::", 9000, "it's", closed=True))
    assert words[:2] == ["curl", "http://[::1]:9000/v1/chat/completions"]
    assert words[2:4] == ["-H", "authorization: Bearer $KEY"]
    assert json.loads(words[-1])["model"] == "it's"
    assert "authorization" not in serve.curl("127.0.0.1", 9000, "a", closed=False)


def test_several_models_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [serve.share_of_cores(models) for models in (1, 2, 3, 20)] == [None, 4, 2, 1]
