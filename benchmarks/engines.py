"""The engines of the comparison, each behind the same three questions; see `arms.py`.

Imports nothing of Puna unless the engine is Puna, and nothing of an engine before it is asked for.
Prompts are random ids, new ones with each seed, so that no cache of prefixes helps. Sampling is
greedy, or none at all where the engine's interface gives logits (llama.cpp, Puna's decoder).
"""

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = int(os.environ.get("PUNA_BENCH_THREADS", "2"))
ROWS = 8  # the largest batch
CONTEXT = 1024  # tokens a row: the longest prompt and its answer fit


def prompts(batch: int, length: int, seed: int) -> list[list[int]]:
    """Random token ids, the same for each engine: none special, all in the smallest tokenizer."""
    numbers = random.Random(seed)
    return [[numbers.randrange(100, 500) for _ in range(length)] for _ in range(batch)]


class Arm:
    """An engine that can only generate: decoding is a long answer's time less a short one's."""

    def decode(self, batch: int, prompt: int, new: int, seed: int) -> float:
        """Seconds of `new` steps for so many rows, after prompts of so many tokens."""
        short = self.seconds(prompts(batch, prompt, seed), 1)
        return self.seconds(prompts(batch, prompt, seed + 1_000_000), new + 1) - short

    def prefill(self, prompt: int, seed: int) -> float:
        """Seconds to the first token of one prompt."""
        return self.seconds(prompts(1, prompt, seed), 1)

    def seconds(self, rows: list[list[int]], new: int) -> float:
        """Seconds to generate so many tokens for each row."""
        started = time.perf_counter()
        self.generate(rows, new)
        return time.perf_counter() - started

    def generate(self, rows: list[list[int]], new: int) -> None:
        """Generate `new` tokens for each row, greedily, whatever they are."""
        raise NotImplementedError


def check(lengths: list[int], new: int) -> None:
    """RuntimeError if an answer was cut short: its time would be of less work."""
    if set(lengths) != {new}:
        raise RuntimeError(f"answers of {sorted(set(lengths))} tokens, {new} were asked for")


class LlamaCpp(Arm):
    """llama.cpp through its C interface, as llama-bench uses it: tokens in, logits out, no draw."""

    def __init__(self, path: str, kind: str) -> None:
        import ctypes

        import llama_cpp
        import numpy

        self.numpy, self.lib = numpy, llama_cpp
        quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.log = quiet(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.log, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = ROWS * CONTEXT, 512, 512
        settings.n_seq_max, settings.n_threads, settings.n_threads_batch = ROWS, THREADS, THREADS
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def forward(self, rows: list[tuple[int, int, int]], wanted: set[int]) -> None:
        """One batch of (token, position, sequence), logits at the indices in `wanted`."""
        for i, (token, position, sequence) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
            self.batch.logits[i] = i in wanted
        self.batch.n_tokens = len(rows)
        if self.lib.llama_decode(self.context, self.batch):
            raise RuntimeError("llama_decode failed")
        self.lib.llama_synchronize(self.context)

    def clear(self) -> None:
        """Forget all sequences."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)

    def decode(self, batch: int, prompt: int, new: int, seed: int) -> float:
        self.clear()
        rows = prompts(batch, prompt + new, seed)
        for number, row in enumerate(rows):
            self.forward([(t, p, number) for p, t in enumerate(row[:prompt])], {prompt - 1})
        started = time.perf_counter()
        for place in range(prompt, prompt + new):
            step = [(row[place], place, number) for number, row in enumerate(rows)]
            self.forward(step, set(range(batch)))
        return time.perf_counter() - started

    def prefill(self, prompt: int, seed: int) -> float:
        self.clear()
        (row,) = prompts(1, prompt, seed)
        started = time.perf_counter()
        self.forward([(t, p, 0) for p, t in enumerate(row)], {prompt - 1})
        return time.perf_counter() - started

    def loss(self, rows: list[list[int]]) -> float:
        """Mean negative log-likelihood of each row's tokens after its first."""
        total = 0.0
        for row in rows:
            self.clear()
            self.forward([(t, p, 0) for p, t in enumerate(row)], set(range(len(row))))
            raw = self.lib.llama_get_logits(self.context)
            shape = (len(row), self.vocab_size)
            logits = self.numpy.ctypeslib.as_array(raw, shape=shape)[:-1].astype("float64")
            logits -= logits.max(axis=1, keepdims=True)
            right = logits[range(len(row) - 1), row[1:]]
            total += float((self.numpy.log(self.numpy.exp(logits).sum(axis=1)) - right).sum())
        return total / sum(len(row) - 1 for row in rows)


class OpenVino(Arm):
    """OpenVINO GenAI's LLMPipeline with its own choice of backend, cache and precision."""

    def __init__(self, path: str, kind: str) -> None:
        import numpy
        import openvino
        import openvino_genai

        self.numpy, self.tensor, self.lib = numpy, openvino.Tensor, openvino_genai
        self.pipe = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=THREADS)

    def generate(self, rows: list[list[int]], new: int) -> None:
        ids = self.numpy.array(rows, dtype="int64")
        inputs = self.lib.TokenizedInputs(self.tensor(ids), self.tensor(self.numpy.ones_like(ids)))
        config = self.lib.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new, True, False
        found = self.pipe.generate(inputs, config)
        check([len(row) for row in found.tokens], new)


class OnnxRuntime(Arm):
    """ONNX Runtime GenAI's generator, step by step."""

    def __init__(self, path: str, kind: str) -> None:
        import numpy
        import onnxruntime_genai

        self.numpy, self.lib = numpy, onnxruntime_genai
        config = onnxruntime_genai.Config(path)
        threads = {"session_options": {"intra_op_num_threads": THREADS}}
        config.overlay(json.dumps({"model": {"decoder": threads}}))
        self.model = onnxruntime_genai.Model(config)

    def started(self, rows: list[list[int]], new: int) -> Any:
        """A generator that has read the prompts and drawn the first token."""
        length = len(rows[0]) + new
        params = self.lib.GeneratorParams(self.model)
        params.set_search_options(
            batch_size=len(rows), max_length=length, min_length=length, do_sample=False
        )
        generator = self.lib.Generator(self.model, params)
        generator.append_tokens(self.numpy.array(rows, dtype="int32"))
        generator.generate_next_token()
        return generator

    def decode(self, batch: int, prompt: int, new: int, seed: int) -> float:
        generator = self.started(prompts(batch, prompt, seed), new + 1)
        started = time.perf_counter()
        for _ in range(new):
            generator.generate_next_token()
        return time.perf_counter() - started

    def generate(self, rows: list[list[int]], new: int) -> None:
        generator = self.started(rows, new)
        for _ in range(new - 1):
            generator.generate_next_token()


class CTranslate2(Arm):
    """CTranslate2's generator."""

    def __init__(self, path: str, kind: str) -> None:
        import ctranslate2

        self.generator = ctranslate2.Generator(
            path, device="cpu", inter_threads=1, intra_threads=THREADS, compute_type=kind
        )
        self.words = json.loads((Path(path) / "vocabulary.json").read_text(encoding="utf-8"))

    def generate(self, rows: list[list[int]], new: int) -> None:
        found = self.generator.generate_batch(
            [[self.words[i] for i in row] for row in rows],
            max_length=new,
            min_length=new,
            include_prompt_in_result=False,
            sampling_topk=1,
        )
        check([len(row.sequences_ids[0]) for row in found], new)


class Transformers(Arm):
    """transformers' model with its growing cache; the loop is ours, greedy."""

    def __init__(self, path: str, kind: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(THREADS)
        self.torch = torch
        dtype = getattr(torch, kind)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()

    def read(self, rows: list[list[int]]) -> tuple[Any, Any]:
        """First tokens [B, 1] and the cache after the prompts."""
        ids = self.torch.tensor(rows)
        out = self.model(ids, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1:].argmax(-1), out.past_key_values

    def write(self, ids: Any, cache: Any, new: int) -> None:
        """So many steps."""
        for _ in range(new):
            out = self.model(ids, past_key_values=cache, use_cache=True)
            ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values

    def decode(self, batch: int, prompt: int, new: int, seed: int) -> float:
        with self.torch.inference_mode():
            ids, cache = self.read(prompts(batch, prompt, seed))
            started = time.perf_counter()
            self.write(ids, cache, new)
        return time.perf_counter() - started

    def generate(self, rows: list[list[int]], new: int) -> None:
        with self.torch.inference_mode():
            self.write(*self.read(rows), new - 1)

    def loss(self, rows: list[list[int]]) -> float:
        """Mean negative log-likelihood of each row's tokens after its first."""
        ids = self.torch.tensor(rows)
        with self.torch.inference_mode():
            logits = [self.model(row[None]).logits[0, :-1].float() for row in ids]
        wanted = ids[:, 1:].flatten()
        return self.torch.nn.functional.cross_entropy(self.torch.cat(logits), wanted).item()


class Vllm(Arm):
    """vLLM on the CPU, in this process, without its cache of prefixes."""

    def __init__(self, path: str, kind: str) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GB
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, range(THREADS)))
        from vllm import LLM, SamplingParams

        self.params = SamplingParams
        self.model = LLM(
            model=path,
            dtype=kind,
            max_model_len=CONTEXT,
            max_num_seqs=ROWS,
            enforce_eager=True,
            enable_prefix_caching=False,
        )

    def generate(self, rows: list[list[int]], new: int) -> None:
        params = self.params(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": row} for row in rows]
        found = self.model.generate(asked, params, use_tqdm=False)
        check([len(row.outputs[0].token_ids) for row in found], new)


class PunaDecoder(Arm):
    """Puna's native decoder: tokens in, logits out, no draw, as llama.cpp is measured."""

    def __init__(self, path: str, kind: str) -> None:
        from puna.engine import opening
        from puna.engine.runner import Row

        self.row, self.per_row = Row, -(-CONTEXT // 16)
        pool = opening.Pool(1, blocks=ROWS * self.per_row)
        found = opening.find(Path(path), CONTEXT)
        self.opened = opening.open_runner(found, kind, pool, threads=THREADS)
        self.runner = self.opened.runner

    def blocks(self, number: int) -> list[int]:
        """The blocks of one row of the batch."""
        return list(range(number * self.per_row, (number + 1) * self.per_row))

    def read(self, number: int, tokens: list[int], wanted: int = 1) -> Any:
        """Read a prompt into a row's blocks; the last `wanted` logits."""
        return self.runner.forward([self.row(tokens, 0, self.blocks(number), wanted)])

    def decode(self, batch: int, prompt: int, new: int, seed: int) -> float:
        rows = prompts(batch, prompt + new, seed)
        for number, row in enumerate(rows):
            self.read(number, row[:prompt])
        blocks = [self.blocks(number) for number in range(batch)]
        started = time.perf_counter()
        for place in range(prompt, prompt + new):
            self.runner.forward(
                [self.row([r[place]], place, b, 1) for r, b in zip(rows, blocks, strict=True)]
            )
        return time.perf_counter() - started

    def prefill(self, prompt: int, seed: int) -> float:
        (row,) = prompts(1, prompt, seed)
        started = time.perf_counter()
        self.read(0, row)
        return time.perf_counter() - started

    def loss(self, rows: list[list[int]]) -> float:
        """Mean negative log-likelihood of each row's tokens after its first."""
        import torch

        logits = [self.read(0, row, len(row))[:-1] for row in rows]
        wanted = torch.tensor([i for row in rows for i in row[1:]])
        return torch.nn.functional.cross_entropy(torch.cat(logits), wanted).item()


class PunaEngine(PunaDecoder):
    """Puna's whole engine: scheduling, drawing (greedy) and texts too."""

    def __init__(self, path: str, kind: str) -> None:
        from puna.engine.engine import Engine, Request
        from puna.text.completion import SamplingParams

        super().__init__(path, kind)
        self.request, self.params = Request, SamplingParams
        self.engine = Engine(self.runner, self.opened.tokenizer, rows=ROWS)

    def generate(self, rows: list[list[int]], new: int) -> None:
        params = self.params(temperature=0, max_tokens=new, ignore_eos=True)
        for number, row in enumerate(rows):
            self.engine.add(self.request(str(number), row, params, speculate=False))
        counts = [0] * len(rows)
        while not self.engine.idle:
            for output in self.engine.step():
                counts[int(output.id)] += len(output.ids)
        check(counts, new)

    decode, prefill = Arm.decode, Arm.prefill


ARMS: dict[str, Callable[[str, str], Arm]] = {
    "llama.cpp": LlamaCpp,
    "openvino": OpenVino,
    "onnxruntime": OnnxRuntime,
    "ctranslate2": CTranslate2,
    "transformers": Transformers,
    "vllm": Vllm,
    "puna": PunaDecoder,
    "puna-engine": PunaEngine,
}
