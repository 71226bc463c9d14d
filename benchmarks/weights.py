"""The same weights in every engine's format, made once and kept in the benchmarks' cache.

    python benchmarks/weights.py smollm2 --formats gguf openvino

`smollm2` is SmolLM2-135M-Instruct out of puna[smollm2], real weights; `tinyllama` has the shape of
TinyLlama 1.1B and random normal ones, which is enough for speed and says nothing of quality. A
Hugging Face folder comes first and all else is made of it by each engine's own converter: GGUF by
`puna convert` and llama.cpp's quantiser, OpenVINO by optimum-intel and NNCF, ONNX by ONNX Runtime
GenAI's model builder, CTranslate2's by its converter.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import peers  # noqa: E402
from puna.model import meta, places  # noqa: E402
from puna.model.presets import preset  # noqa: E402
from puna.model.source import Source, Stored, expected_tensors  # noqa: E402
from puna.recipes import convert  # noqa: E402
from puna.text.gguf import read_header  # noqa: E402
from puna.text.tokenizer import train_tokenizer  # noqa: E402

MODELS = ("smollm2", "tinyllama")
PLAIN = {"smollm2": "F32", "tinyllama": "BF16"}  # GGUF type that holds the weights as they are
QUANTISED = ("Q8_0", "Q4_0", "Q4_K_M", "BF16", "F16")

# bytes a weight, of the layers and of the output matrix, with their scales
SIZES = {
    ("puna", "float32"): (4.0, 4.0),
    ("puna", "bfloat16"): (2.0, 2.0),
    ("puna", "int8"): (34 / 32, 34 / 32),
    ("puna", "int4"): (19 / 32, 34 / 32),
    ("openvino", "int8"): (1.0, 1.0),
    ("openvino", "int4"): (4.25 / 8, 1.0),
    ("onnxruntime", "int4"): (4.25 / 8, 4.25 / 8),
    ("ctranslate2", "int8"): (1.0, 1.0),
    ("transformers", "bfloat16"): (2.0, 2.0),
    ("transformers", "float32"): (4.0, 4.0),
    ("vllm", "bfloat16"): (2.0, 2.0),
}


def folder(model: str, kind: str = "") -> Path:
    """Where a model's format is kept, or its folder of formats."""
    return peers.cache() / "models" / model / kind


def hf(model: str) -> Path:
    """The model's Hugging Face folder, made if it is not there."""
    there = folder(model, "hf")
    if not there.exists():
        with tempfile.TemporaryDirectory(dir=peers.cache()) as place:
            source = model if model == "smollm2" else random_meta(Path(place))
            convert.main(convert.Config(src=source, dst=there, to="hf"))
    return there


def random_meta(place: Path) -> str:
    """Meta's folder of TinyLlama's shape with random weights; returns its path."""
    pages = [page.read_text(encoding="utf-8") for page in ROOT.glob("docs/*.md")]
    tokenizer = train_tokenizer(pages, place / "tokenizer.model", 512)
    args = preset("tinyllama-1.1b")
    tensors = {
        name: Stored(shape, torch.bfloat16, partial(drawn, shape, seed))
        for seed, (name, shape) in enumerate(expected_tensors(args).items())
    }
    meta.write_meta(Source(args, tensors, tokenizer.path), place / "meta")
    return str(place / "meta")


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Normal numbers of standard deviation 0.02 (ones for a norm), bfloat16, the same each time."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    numbers = torch.Generator().manual_seed(seed)
    return torch.empty(shape).normal_(0, 0.02, generator=numbers).bfloat16()


def gguf(model: str, kind: str) -> Path:
    """The model as GGUF of that type, by llama.cpp's quantiser."""
    there = folder(model, f"{kind}.gguf")
    if there.exists():
        return there
    plain = folder(model, f"{PLAIN[model]}.gguf")
    if not plain.exists():
        source = str(hf(model))
        convert.main(convert.Config(src=source, dst=plain, to="gguf", gguf_type=PLAIN[model]))
    if plain != there:
        partial_file = there.with_suffix(".part")
        words = [peers.llama_program("llama-quantize"), plain, partial_file, kind, 2]
        command([*words], there.with_suffix(".log"))
        partial_file.rename(there)
    return there


def openvino(model: str, bits: str) -> Path:
    """The model as OpenVINO's, weights in int8 (per channel) or int4 (groups of 64 or 128)."""
    there = folder(model, f"openvino-{bits}")
    if not there.exists():
        group = ["--group-size", "64"] if bits == "int4" and model == "smollm2" else []
        words = [peers.python("openvino").with_name("optimum-cli"), "export", "openvino"]
        words += ["--model", hf(model), "--task", "text-generation-with-past"]
        words += ["--weight-format", bits, *group]
        made(there, lambda place: [*words, place])
    return there


def onnx(model: str, bits: str) -> Path:
    """The model as ONNX Runtime GenAI's builder makes it for CPUs."""
    there = folder(model, f"onnx-{bits}")
    if not there.exists():
        words = [peers.python("onnxruntime"), "-m", "onnxruntime_genai.models.builder"]
        words += ["-i", hf(model), "-p", bits, "-e", "cpu", "-c", peers.cache() / "onnx-cache"]
        made(there, lambda place: [*words, "-o", place])
    return there


def ctranslate2(model: str, bits: str) -> Path:
    """The model as CTranslate2's converter makes it."""
    there = folder(model, f"ctranslate2-{bits}")
    if not there.exists():
        words = [peers.python("ctranslate2").with_name("ct2-transformers-converter")]
        words += ["--model", hf(model), "--quantization", bits]
        made(there, lambda place: [*words, "--output_dir", place])
        name_tokens(there)
    return there


def name_tokens(place: Path) -> None:
    """Name the special tokens that the model has not: CTranslate2 does not open it without."""
    settings = json.loads((place / "config.json").read_text(encoding="utf-8"))
    words = json.loads((place / "vocabulary.json").read_text(encoding="utf-8"))
    for key in ("bos_token", "eos_token", "unk_token"):
        settings[key] = settings.get(key) or words[0]
    (place / "config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def place(model: str, engine: str, kind: str) -> Path:
    """What an engine is to open for this kind of weights; made if it is not there."""
    if engine == "llama.cpp":
        return gguf(model, kind)
    make = {"openvino": openvino, "onnxruntime": onnx, "ctranslate2": ctranslate2}.get(engine)
    return make(model, kind) if make else hf(model)


def read_bytes(model: str, arm: str) -> float:
    """Bytes of weights that one decoded token reads: all but the embedding, if it is only that.

    Counted by the kinds' own sizes a weight, with the norms left out; for a GGUF from its header.
    """
    engine, kind = arm.split(":")
    args = places.open_source(hf(model), verify=False).args
    shapes = expected_tensors(args)
    tied = args.tie_embeddings
    if engine == "llama.cpp":
        header = read_header(gguf(model, kind)).tensors
        return sum(t.size for name, t in header.items() if tied or name != "token_embd.weight")
    head = "tok_embeddings.weight" if tied else "output.weight"
    within = sum(prod(s) for name, s in shapes.items() if name.startswith("layers."))
    sizes = SIZES[engine.removesuffix("-engine"), kind]
    return within * sizes[0] + prod(shapes[head]) * sizes[1]


def made(there: Path, words) -> None:
    """Run a converter into a folder beside `there`, which gets its name when it is whole."""
    place = there.with_name(f"{there.name}.part")
    shutil.rmtree(place, ignore_errors=True)
    command(words(place), there.with_name(f"{there.name}.log"))
    place.rename(there)


def command(words: list, log: Path) -> None:
    """Run a converter; what it says is in `log`. RuntimeError with its last line if it fails."""
    print(f"making {log.stem}", file=sys.stderr, flush=True)
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(
            [str(word) for word in words], stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip() or "no output"
        raise RuntimeError(f"{log.stem}: {last.splitlines()[-1]} (all of it: {log})")


FORMATS = {
    "gguf": (gguf, QUANTISED),
    "openvino": (openvino, ("int8", "int4")),
    "onnx": (onnx, ("int4",)),
    "ctranslate2": (ctranslate2, ("int8",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=MODELS)
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    options = parser.parse_args()
    for model in options.models:
        print(hf(model))
        for name in options.formats:
            make, kinds = FORMATS[name]
            for kind in kinds:
                print(make(model, kind))


if __name__ == "__main__":
    main()
