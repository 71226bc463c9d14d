"""Zips that are not what torch.save writes are refused before anything in them is read."""

import struct
import zipfile
from pathlib import Path

import pytest
import torch

from puna.errors import InputError
from puna.model.pickled import read_pth
from tests.pickles import growth, tensor_code, zipped


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file that torch.save wrote."""
    torch.save({"w": torch.arange(200.0)}, tmp_path / "saved.pth")
    return tmp_path / "saved.pth"


def deflated(path: Path) -> Path:
    """A zip whose member of 128 MB is packed into a few kilobytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", tensor_code(), zipfile.ZIP_STORED)
        file.writestr("archive/data/0", bytes(128 << 20))
    assert path.stat().st_size < 1 << 20
    return path


def test_a_zip_bomb_is_refused_without_being_unpacked(tmp_path):
    path = deflated(tmp_path / "a.pth")

    def refused() -> None:
        with pytest.raises(InputError, match=r"member 'archive/data/0' is compressed"):
            read_pth(path)

    assert growth(refused) < 50 << 20


def test_a_zip_in_a_zip_is_refused(tmp_path):
    inner = deflated(tmp_path / "inner.zip").read_bytes()
    path = zipped(
        tmp_path / "a.pth", tensor_code(), {"archive/data/0": bytes(16), "archive/inner.zip": inner}
    )
    with pytest.raises(
        InputError, match=r"holds 'inner.zip', which torch.save of tensors does not"
    ):
        read_pth(path)


@pytest.mark.parametrize(
    "name",
    [
        *("../../x", "archive/../x", "/archive/data/0", "archive//data/0", "archive/./data/0"),
        *("archive\\data\\0", "C:/archive/data", "archive/data/", "loose", "archive/da\nta"),
        "archive/" + "long" * 200,
    ],
)
def test_a_member_named_out_of_its_folder_is_refused(tmp_path, name):
    path = zipped(tmp_path / "a.pth", tensor_code(), {"archive/data/0": bytes(16), name: b"x"})
    with pytest.raises(InputError, match=r"a member is named b'.*, archive/... was expected"):
        read_pth(path)
    assert [found.name for found in tmp_path.rglob("*")] == ["a.pth"]


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "a", "w") as file:
        for content in (tensor_code(), tensor_code(3)):
            file.writestr("archive/data.pkl", content)
    with pytest.raises(InputError, match=r"member 'data.pkl' is there twice"):
        read_pth(tmp_path / "a")


def test_two_folders_in_a_zip_are_refused(tmp_path):
    members = {"archive/data/0": bytes(16), "other/data.pkl": tensor_code(3)}
    with pytest.raises(InputError, match=r"its members are in 2 folders"):
        read_pth(zipped(tmp_path / "a.pth", tensor_code(), members))


@pytest.mark.parametrize("size", [0, 1, 4, 30, 97, 98, 500, -98, -22, -1])
def test_a_file_that_is_cut_short_is_refused(saved, size):
    content = saved.read_bytes()
    saved.write_bytes(content[: size if size > 0 else len(content) + size] if size else b"")
    with pytest.raises(InputError, match=r"saved.pth: "):
        read_pth(saved)


def test_bytes_behind_the_end_are_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"does not end as a zip of torch.save does"):
        read_pth(saved)


def test_bytes_before_the_zip_are_refused(saved):
    saved.write_bytes(b"PK\x03\x04" + saved.read_bytes())
    with pytest.raises(InputError, match=r"saved.pth: "):
        read_pth(saved)


def altered(path: Path, signature: bytes, at: int, value: bytes) -> Path:
    """The file, `value` written over what is `at` bytes into the last record of a signature."""
    content = bytearray(path.read_bytes())
    place = content.rfind(signature) + at
    content[place : place + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("at", "value", "fault"),
    [
        (8, b"\x01", "is encrypted"),
        (10, b"\x08", "is compressed"),
        (20, b"\x08", "is compressed"),
        (20, struct.pack("<2L", 1 << 30, 1 << 30), "leaves the file"),
        (20, struct.pack("<2L", 0xFFFFFFFF, 0xFFFFFFFF), "lacks its 64-bit size"),
        (34, b"\x01", "is not where the directory says"),
        (42, struct.pack("<L", 1 << 30), "is not where the directory says"),
        (42, struct.pack("<L", 0), "differs from the directory's entry"),
    ],
)
def test_an_altered_entry_of_the_directory_is_refused(tmp_path, at, value, fault):
    path = zipped(tmp_path / "a.pth", tensor_code())
    with pytest.raises(InputError, match=rf"member 'archive/data/0' .*{fault}"):
        read_pth(altered(path, b"PK\x01\x02", at, value))


def test_two_members_in_one_place_are_refused(tmp_path):
    path = zipped(tmp_path / "a.pth", tensor_code(), {"archive/data/0": bytes(16)})
    content = path.read_bytes()
    first = content.index(b"PK\x01\x02")
    entry = content[content.rindex(b"PK\x01\x02") : -22]
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(content) - 22 - first + len(entry), first, 0
    )
    path.write_bytes(content[:-22] + entry + end)
    with pytest.raises(InputError, match=r"member 'archive/data/0' overlaps"):
        read_pth(path)


def test_big_endian_numbers_are_refused(tmp_path):
    members = {"archive/data/0": bytes(16), "archive/byteorder": b"big"}
    with pytest.raises(InputError, match=r"not in little-endian order"):
        read_pth(zipped(tmp_path / "a.pth", tensor_code(), members))
