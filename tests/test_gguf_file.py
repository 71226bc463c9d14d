"""GGUF headers: the same as llama.cpp's own package reads and writes, and damage refused."""

import random
import resource
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from puna.errors import InputError
from puna.model.gguf_tensors import encode, read_tensor
from puna.text import gguf as header
from puna.text.gguf import TENSOR_TYPES, Field, header_bytes, read_header, read_metadata
from tests.models import normal

BIG = 2**63
SCALARS = {
    "uint8": 200,
    "int8": -3,
    "uint16": 60000,
    "int16": -300,
    "uint32": 4_000_000_000,
    "int32": -70000,
    "float32": 0.5,
    "bool": True,
    "string": "two words, é🙂",
    "uint64": 2**63,
    "int64": -(2**62),
    "float64": 0.1,
}


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def info(
    name: str, shape=(32, 2), kind: int = 0, offset: int = 0, dims: int | None = None
) -> bytes:
    count = len(shape) if dims is None else dims
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, offset)


A = (info("a"),)


def raw(
    keys=(),
    tensors=A,
    data: int = 256,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_keys: int | None = None,
) -> bytes:
    """A file made by hand, with a tensor "a" of 64 float32 numbers."""
    counts = (
        len(tensors) if n_tensors is None else n_tensors,
        len(keys) if n_keys is None else n_keys,
    )
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join((*keys, *tensors))
    return head + bytes(-len(head) % 32 + data)


def written(path: Path) -> Path:
    """A file of llama.cpp's own writer, with every type of value and of plain tensor."""
    writer = gguf.GGUFWriter(path, "llama")
    for kind, value in SCALARS.items():
        number = gguf.GGUFValueType(header.KINDS.index(kind))
        writer.add_key_value(f"test.{kind}", value, number)
        writer.add_key_value(f"test.{kind}s", [value] * 3, gguf.GGUFValueType.ARRAY, number)
    writer.add_tensor("one", np.arange(6, dtype=np.float32))
    writer.add_tensor("two", np.arange(6, dtype=np.float16).reshape(2, 3))
    blocks = gguf.quants.quantize(normal(0, 3, 64).numpy(), gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("three", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# --- against the package of llama.cpp's authors


def test_values_that_the_gguf_package_writes_are_read_with_their_types(tmp_path):
    fields = read_header(written(tmp_path / "a.gguf")).fields
    assert fields.pop("general.architecture") == Field("string", "llama")
    scalars = {f"test.{kind}": Field(kind, value) for kind, value in SCALARS.items()}
    lists = {f"test.{kind}s": Field(f"{kind}[]", [value] * 3) for kind, value in SCALARS.items()}
    assert fields == scalars | lists


def test_tensors_that_the_gguf_package_writes_are_read(tmp_path):
    path = written(tmp_path / "a.gguf")
    places = read_header(path).tensors
    assert {name: (place.kind, place.shape) for name, place in places.items()} == {
        "one": ("F32", (6,)),
        "two": ("F16", (2, 3)),
        "three": ("Q4_0", (3, 64)),
    }
    assert read_tensor(path, places["one"]).tolist() == [0, 1, 2, 3, 4, 5]
    assert read_tensor(path, places["two"]).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_header_is_written_byte_for_byte_as_the_gguf_package_writes_it(tmp_path):
    path = written(tmp_path / "a.gguf")
    found = read_header(path)
    shapes = {name: (place.kind, place.shape) for name, place in found.tensors.items()}
    content, places = header_bytes(found.fields, shapes)
    assert path.read_bytes().startswith(content)
    assert places == found.tensors


@pytest.mark.parametrize("kind", [k for k in TENSOR_TYPES if k not in ("F32", "F16", "BF16")])
def test_blocks_are_read_as_the_gguf_package_reads_them(tmp_path, kind):
    stored = TENSOR_TYPES[kind]
    count = 40_000 // stored.block  # more than is taken apart at a time
    blocks = np.random.default_rng(0).integers(0, 256, (count, stored.size), dtype=np.uint8)
    path = tmp_path / "a.gguf"
    content, places = header_bytes({}, {"a": (kind, (count, stored.block))})
    path.write_bytes(content + blocks.tobytes())
    found = read_tensor(path, read_header(path).tensors["a"]).numpy()
    with np.errstate(all="ignore"):  # scales of random bits are sometimes infinite
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert found.dtype == np.float32
    assert np.array_equal(found, expected, equal_nan=True)
    assert (
        places["a"].size
        == gguf.quants.quant_shape_to_byte_shape(
            (count, stored.block), gguf.GGMLQuantizationType[kind]
        )[1]
        * count
    )


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_numbers_are_encoded_as_the_gguf_package_encodes_them(kind):
    numbers = normal(0, 1200, 32)
    numbers[5] = 0  # a block without a scale
    found = b"".join(encode(numbers, kind))
    expected = gguf.quants.quantize(numbers.numpy(), gguf.GGMLQuantizationType[kind])
    assert found == expected.tobytes()


def test_the_sizes_of_the_types_are_those_of_the_gguf_package():
    ours = {kind: (found.number, found.block, found.size) for kind, found in TENSOR_TYPES.items()}
    types = {kind: gguf.GGMLQuantizationType[kind] for kind in ours}
    assert ours == {k: (int(t), *gguf.GGML_QUANT_SIZES[t]) for k, t in types.items()}


def test_version_2_is_read_like_version_3(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(raw([key("a", 4, struct.pack("<I", 7))], version=2))
    assert read_metadata(path) == {"a": 7}
    assert read_header(path).tensors["a"].shape == (2, 32)


def test_tensors_are_found_at_another_alignment(tmp_path):
    path = tmp_path / "a.gguf"
    keys = [key("general.alignment", 4, struct.pack("<I", 256))]
    content = raw(keys, data=0)
    content += bytes(-len(content) % 256) + struct.pack("<64f", *range(64))
    path.write_bytes(content)
    assert read_tensor(path, read_header(path).tensors["a"]).flatten().tolist() == [*range(64)]


def test_metadata_is_read_where_a_tensor_has_an_unknown_type(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(raw([key("a", 7, b"\1")], tensors=[info("a", kind=23)]))
    assert read_metadata(path) == {"a": True}


def test_a_token_that_looks_like_a_wrong_byte_is_text(tmp_path):
    path = tmp_path / "a.gguf"
    tokens = struct.pack("<IQ", 8, 2) + text("<0x-1>") + text("<0xZZ>")
    path.write_bytes(raw([key("tokenizer.ggml.tokens", 9, tokens)]))
    assert read_metadata(path) == {"tokenizer.ggml.tokens": ["<0x-1>", "<0xZZ>"]}


# --- damage

ONE = struct.pack("<I", 1)
ALIGNED = "general.alignment"
TABLE = {
    "an empty file": (b"", "the magic needs 4 bytes, the file has 0"),
    "another magic": (raw(magic=b"GGML"), "begins with b'GGML'"),
    "version 0": (raw(version=0), "version 0, expected 2 or 3"),
    "version 1": (raw(version=1), "version 1, expected 2 or 3"),
    "version 9": (raw(version=9), "version 9, expected 2 or 3"),
    "big-endian": (raw(version=3 << 24), "big-endian"),
    "2^63 tensors": (raw(n_tensors=BIG), f"says it has {BIG} tensors"),
    "2^63 keys": (raw(n_keys=BIG), f"says it has {BIG} keys"),
    "more tensors than fit": (raw(n_tensors=20), "says it has 20 tensors, expected at most"),
    "a tensor too many": (raw(n_tensors=2), "tensor 2 has no name"),
    "a key of 2^62 bytes": (
        raw([struct.pack("<Q", 2**62)]),
        f"key 1 has a text of {2**62} bytes, expected at most 65535",
    ),
    "a key of 65536 bytes": (raw([key("a" * 65536, 4, ONE)]), "expected at most 65535"),
    "an empty key": (raw([key("", 4, ONE)]), "key 1 has no name"),
    "a key that is not UTF-8": (raw([key(b"\xff", 4, ONE)]), "key 1 is not UTF-8: byte 1"),
    "a value of type 99": (raw([key("a", 99, ONE)]), "key 'a' has a value of type 99"),
    "items of type 99": (raw([key("a", 9, struct.pack("<IQ", 99, 1))]), "a value of type 99"),
    "a text of 2^62 bytes": (
        raw([key("a", 8, struct.pack("<Q", 2**62))]),
        f"key 'a' has a text of {2**62} bytes",
    ),
    "a text that is not UTF-8": (raw([key("a", 8, text(b"ab\xc3"))]), "key 'a' is not UTF-8"),
    "a truth value of 2": (raw([key("a", 7, b"\2")]), "truth value 2"),
    "a key twice": (raw([key("a", 4, ONE), key("a", 4, ONE)]), "key 'a' is there twice"),
    "an array of arrays": (raw([key("a", 9, struct.pack("<IQ", 9, 1))]), "array of arrays"),
    "an array longer than the file": (
        raw([key("a", 9, struct.pack("<IQ", 8, 2**40))]),
        f"key 'a' says it has {2**40} items",
    ),
    "an array of 2^63 truth values": (
        raw([key("a", 9, struct.pack("<IQ", 7, BIG))]),
        f"key 'a' says it has {BIG} items",
    ),
    "a tensor twice": (raw(tensors=[info("a"), info("a", offset=256)], data=512), "'a' is there"),
    "a tensor without name": (raw(tensors=[info("")]), "tensor 1 has no name"),
    "a tensor with a name of 65 bytes": (raw(tensors=[info("a" * 65)]), "expected at most 64"),
    "no dimension": (raw(tensors=[info("a", ())]), "'a' has 0 dimensions, expected 1 to 4"),
    "five dimensions": (raw(tensors=[info("a", (1,) * 5)]), "'a' has 5 dimensions"),
    "2^32 - 1 dimensions": (raw(tensors=[info("a", dims=2**32 - 1)]), "dimensions, expected 1"),
    "a dimension of 0": (raw(tensors=[info("a", (32, 0))]), "shape [0, 32], expected positive"),
    "a shape that overflows": (
        raw(tensors=[info("a", (2**32, 2**32, 2**32, 2**32))]),
        f"needs {2**130} bytes",
    ),
    "a shape that overflows to 0": (raw(tensors=[info("a", (2**62, 4))]), f"needs {2**66} bytes"),
    "a type of 999": (raw(tensors=[info("a", kind=999)]), "type 999, expected one of F32, F16"),
    "a removed type": (raw(tensors=[info("a", kind=4)]), "type 4, expected one of F32"),
    "rows that are not whole blocks": (
        raw(tensors=[info("a", (33, 1), kind=8)]),
        "the last a multiple of 32",
    ),
    "data past the end": (raw(tensors=[info("a", offset=32)]), "which has 256"),
    "data at 2^63": (raw(tensors=[info("a", offset=BIG)]), "which has 256"),
    "a misaligned tensor": (raw(tensors=[info("a", offset=1)]), "expected a multiple of 32"),
    "tensors that overlap": (
        raw(tensors=[info("a"), info("b", offset=224)], data=512),
        "tensors 'a' and 'b' overlap",
    ),
    **{
        f"an alignment of {number}": (
            raw([key(ALIGNED, 4, struct.pack("<I", number))]),
            f"{ALIGNED}' is {number}, expected a power of two from 8 to 65536",
        )
        for number in (0, 1, 3, 4, 2**17, 2**31)
    },
    "an alignment that is a text": (raw([key(ALIGNED, 8, text("32"))]), "is '32', expected"),
    "an alignment of another type": (raw([key(ALIGNED, 10, struct.pack("<Q", 32))]), "is 32,"),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_damaged_file_is_refused(tmp_path, name):
    content, expected = TABLE[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_file_that_the_damage_is_done_to_is_read(tmp_path):
    (tmp_path / "a.gguf").write_bytes(raw())
    assert list(read_header(tmp_path / "a.gguf").tensors) == ["a"]


@pytest.mark.parametrize("part", range(50))
def test_a_file_cut_short_anywhere_is_refused(tmp_path, part):
    whole = written(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: len(whole) * part // 50])
    with pytest.raises(InputError, match=r"cut\.gguf"):
        read_header(path)


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path):
    path = written(tmp_path / "a.gguf")
    places = read_header(path).tensors
    path.write_bytes(path.read_bytes()[: places["three"].start + 5])
    with pytest.raises(InputError, match="cut short"):
        read_tensor(path, places["three"])


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["nothing", "a folder"])
def test_what_is_not_a_file_is_refused(tmp_path, make):
    make(tmp_path / "a.gguf")
    with pytest.raises(InputError, match="a GGUF file was expected"):
        read_header(tmp_path / "a.gguf")


def test_a_changed_byte_gives_a_refusal_or_another_file_and_takes_no_memory(tmp_path):
    whole = written(tmp_path / "whole.gguf").read_bytes()
    path, chance = tmp_path / "changed.gguf", random.Random(0)
    refused, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(500):
        place = chance.randrange(len(whole))
        other = bytes([whole[place] ^ chance.randrange(1, 256)])
        path.write_bytes(whole[:place] + other + whole[place + 1 :])
        try:
            for found in read_header(path).tensors.values():
                read_tensor(path, found)
        except InputError:
            refused += 1
    assert 50 < refused < 450
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
