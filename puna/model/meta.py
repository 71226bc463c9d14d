"""Meta's folder of a Llama: `params.json`, `consolidated.NN.pth`, `tokenizer.model`.

A model for several GPUs is cut into shards, one a GPU: the matrices whose outputs are divided by
rows, those whose inputs are divided by columns, the norms whole in every shard. Llama 2 cuts the
token embedding by columns, Llama 3 by rows; both are read, Llama 2's is written.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.errors import InputError
from puna.model.pickled import InFile, PthWriter, read_pth
from puna.model.settings import model_args, params, read_settings
from puna.model.source import Source, Stored, expected_tensors
from puna.model.tensors import NAMED, TYPES, refuse_shapes, shapes_of
from puna.model.transformer import ModelArgs
from puna.text.files import PathLike, write_json
from puna.text.tokenizer import open_tokenizer

CHECKLIST, PARAMS, TOKENIZER = "checklist.chk", "params.json", "tokenizer.model"
JSON = "tokenizer.json"  # of a model whose tokenizer is not SentencePiece's
SHARDS = 64  # at most; Llama 2 70B has 8, Llama 3.1 405B has 16
DROPPED = "rope.freqs"  # a buffer that follows from the settings
# the axis along which a matrix [out, in] is cut
AXES = {
    "tok_embeddings": 1,
    "output": 0,
    "wq": 0,
    "wk": 0,
    "wv": 0,
    "wo": 1,
    "w1": 0,
    "w2": 1,
    "w3": 0,
}
# what Meta's code for Llama 2 takes; that of Code Llama and Llama 3 also takes rope_theta
METAS = {"dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of"}
METAS |= {"ffn_dim_multiplier", "norm_eps"}
Shape = tuple[int, ...]


def shard_shapes(args: ModelArgs, shards: int) -> dict[str, Shape]:
    """Name and shape of every tensor in one of `shards` shards.

    InputError if heads, key/value heads, feed-forward width, vocabulary or width do not divide.
    """
    if not 1 <= shards <= SHARDS:
        raise InputError(f"{shards} shards: 1 to {SHARDS} were expected")
    counts = {
        "n_heads": args.n_heads,
        "n_kv_heads": args.kv_heads,
        "feed-forward width": args.ffn_dim,
        "vocab_size": args.vocab_size,
        "dim": args.dim,
    }
    for name, count in counts.items():
        if count % shards:
            raise InputError(f"{shards} shards: {name} {count} does not divide by {shards}")
    return {name: _cut(name, shape, shards) for name, shape in expected_tensors(args).items()}


def open_meta(folder: PathLike) -> Source:
    """The model in Meta's folder; its shards are merged tensor by tensor when read.

    tokenizer.model may be in the folder or the one above it, as Meta ships it; tokenizer.json,
    which ours may have instead, is in the folder. Each tensor is compared with its CRC-32 when it
    is read. InputError names a file, setting or tensor that is missing, unknown or of another
    shape; reading a norm raises it if the shards differ.
    """
    folder = Path(folder)
    if not (folder / PARAMS).is_file():
        raise InputError(f"{folder}: has no {PARAMS}, Meta's folder of a model was expected")
    paths = _shard_files(folder)
    places = (folder / TOKENIZER, folder / JSON, folder.parent / TOKENIZER)
    tokenizer = next((place for place in places if place.is_file()), None)
    args = model_args(folder / PARAMS, _tokenizer_size(folder / PARAMS, tokenizer))
    files = [read_pth(path) for path in paths]
    for tensors in files:
        tensors.pop(DROPPED, None)
    return Source(args, _merged(args, paths, files), tokenizer, {"shards": len(paths)})


def write_meta(source: Source, folder: PathLike, shards: int = 1) -> list[str]:
    """Write Meta's folder with so many shards; gives the settings that Meta's own code lacks.

    Each tensor is read once, cut, and its pieces go to all shards, so that memory holds one.
    Settings that Meta's code for Llama 2 does not know (tied embeddings, a sliding window, another
    context, ...) are kept in params.json, where `open_meta` finds them, and their names are given
    back; a feed-forward width is written in Meta's terms.
    The folder must be new or empty; `folders.commit` makes it appear whole. InputError if the
    model cannot be cut so, has no tokenizer, or is of another type.
    """
    folder = Path(folder)
    if source.tokenizer is None:
        raise InputError(f"{folder}: Meta's folder holds a tokenizer, the model has none")
    shapes = shard_shapes(source.args, shards)
    refuse_shapes("the model to write", shapes_of(source.tensors), expected_tensors(source.args))
    layout = {n: (shapes[n], source.tensors[n].dtype) for n in shapes}
    for name, (_, kind) in layout.items():
        if kind not in TYPES.values():
            raise InputError(f"{folder}: {name} is {kind}, Meta's files hold {list(TYPES)}")
    settings = metas_params(source.args)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder}: holds files, a new or empty folder was expected")
        try:
            _fill(source, folder, shards, layout, settings)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return sorted(set(settings) - METAS)


def metas_params(args: ModelArgs) -> dict[str, Any]:
    """The settings as Meta's params.json has them: only those that differ from Meta's defaults.

    A feed-forward width that Meta's rule does not give becomes `multiple_of` (and, if the rule
    gives more, `ffn_dim_multiplier`), which lead the rule to it.
    """
    settings = params(args)
    width = settings.pop("hidden_dim", None)
    if width is not None:
        if replace(args, hidden_dim=None).ffn_dim != width:
            settings.pop("ffn_dim_multiplier", None)
            settings["multiple_of"] = width
            if ModelArgs(dim=args.dim, multiple_of=1).ffn_dim > width:
                settings["ffn_dim_multiplier"] = 3 * width / (8 * args.dim)
    defaults = params(ModelArgs())
    needed = {"dim", "n_layers", "n_heads", "vocab_size", "multiple_of", "norm_eps"}
    return {k: v for k, v in settings.items() if k in needed or v != defaults.get(k)}


def verify_checklist(folder: Path) -> None:
    """Compare the files of Meta's folder with the MD5 in its checklist.chk, which reads them whole.

    InputError names the first file that is missing, changed, or needed and not listed.
    """
    path, names = folder / CHECKLIST, [PARAMS, *(file.name for file in _shard_files(folder))]
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"{path}: cannot be read, Meta's list of check sums was expected"
        ) from None
    listed: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        found = re.fullmatch(r"([0-9a-f]{32}) [ *](?:\./)?([\w.-]+)", line)
        if found is None:
            raise InputError(f"{path}:{number}: an MD5, two blanks and a file's name were expected")
        listed[found[2]] = found[1]
    for name in (*names, *listed):
        if name not in listed:
            raise InputError(f"{path}: does not list {name}")
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: is missing, {CHECKLIST} lists it")
        if _md5(folder / name) != listed[name]:
            raise InputError(f"{folder / name}: its content differs from the MD5 in {CHECKLIST}")


def _shard_files(folder: Path) -> list[Path]:
    """consolidated.00.pth and on, all of them."""
    paths = sorted(folder.glob("consolidated.*.pth"))
    expected = [folder / f"consolidated.{number:02}.pth" for number in range(len(paths))]
    if not paths or paths != expected or len(paths) > SHARDS:
        there = ", ".join(path.name for path in paths[:NAMED]) or "none"
        raise InputError(
            f"{folder}: consolidated.00.pth, .01.pth and so on without a gap, at most {SHARDS}, "
            f"were expected; {len(paths)} are there: {there}"
        )
    return paths


def _tokenizer_size(path: Path, tokenizer: Path | None) -> int:
    """The number of tokens, which is looked up only for a vocab_size of -1; else 0."""
    if read_settings(path).get("vocab_size") != -1:
        return 0
    if tokenizer is None:
        raise InputError(f"{path}: vocab_size is -1, and no {TOKENIZER} is beside it or above")
    return open_tokenizer(tokenizer).vocab_size


def _cut(name: str, shape: Shape, shards: int, axis: int | None = None) -> Shape:
    """The shape of one shard's piece of a tensor."""
    axis = _axis(name) if axis is None else axis
    return tuple(size // shards if at == axis else size for at, size in enumerate(shape))


def _axis(name: str) -> int | None:
    """The axis along which a tensor is cut; None: every shard has all of it."""
    return AXES.get(name.split(".")[-2])


def _merged(
    args: ModelArgs, paths: Sequence[Path], files: Sequence[Mapping[str, InFile]]
) -> dict[str, Stored]:
    """The whole tensors, from as many pieces as there are files."""
    if args.n_layers > len(files[0]):  # before a table of as many names is made
        raise InputError(
            f"{paths[0]}: has {len(files[0])} tensors, too few for n_layers {args.n_layers}"
        )
    whole, pieces = expected_tensors(args), shard_shapes(args, len(files))
    axes = {name: _axis(name) for name in whole}
    embedding = "tok_embeddings.weight"
    by_rows = _cut(embedding, whole[embedding], len(files), axis=0)
    if embedding in files[0] and files[0][embedding].shape == by_rows:
        axes[embedding], pieces[embedding] = 0, by_rows  # Llama 3
    for path, tensors in zip(paths, files, strict=True):
        refuse_shapes(path, shapes_of(tensors), pieces)
        for name, stored in tensors.items():
            if stored.dtype != files[0][name].dtype or not stored.dtype.is_floating_point:
                raise InputError(
                    f"{path}: tensor {name} is {stored.dtype}, in {paths[0].name} it is "
                    f"{files[0][name].dtype}; one floating type was expected"
                )
    return {
        name: Stored(shape, files[0][name].dtype, partial(_read, name, axes[name], paths, parts))
        for name, shape in whole.items()
        for parts in ([tensors[name] for tensors in files],)
    }


def _read(name: str, axis: int | None, paths: Sequence[Path], parts: Sequence[InFile]) -> Tensor:
    """One tensor, merged; its pieces are read into their places."""
    if axis is None or len(parts) == 1:
        whole = parts[0].read()
        for path, part in zip(paths[1:], parts[1:], strict=True):
            if not torch.equal(part.read().view(torch.uint8), whole.view(torch.uint8)):
                raise InputError(f"{path}: tensor {name} differs from that in {paths[0].name}")
        return whole
    shape = list(parts[0].shape)
    step = shape[axis]
    shape[axis] *= len(parts)
    whole = torch.empty(shape, dtype=parts[0].dtype)
    for number, part in enumerate(parts):
        part.fill(whole.narrow(axis, number * step, step))
    return whole


def _fill(
    source: Source,
    folder: Path,
    shards: int,
    layout: Mapping[str, tuple[Shape, torch.dtype]],
    settings: Mapping[str, Any],
) -> None:
    """Write every file of Meta's folder; checklist.chk last."""
    assert source.tokenizer is not None
    write_json(folder / PARAMS, settings)
    tokenizer = open_tokenizer(source.tokenizer).save(folder)
    sums = _write_shards(source, folder, shards, layout)
    sums |= {path.name: _md5(path) for path in (folder / PARAMS, tokenizer)}
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    (folder / CHECKLIST).write_text(lines, encoding="ascii")


def _write_shards(
    source: Source, folder: Path, shards: int, layout: Mapping[str, tuple[Shape, torch.dtype]]
) -> dict[str, str]:
    """Write all shards side by side; the MD5 of each file."""
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(PthWriter(folder / name, layout, summed=True))
            for name in (f"consolidated.{number:02}.pth" for number in range(shards))
        }
        for name, (shape, _) in layout.items():
            whole = source.tensors[name].read()
            axis = _axis(name)
            for number, writer in enumerate(writers.values()):
                if axis is None:
                    writer.append(whole)
                else:
                    writer.append(whole.narrow(axis, number * shape[axis], shape[axis]))
            del whole
    return {name: writer.md5 for name, writer in writers.items()}


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
