"""`.pth` files: torch's and ours read each other, and a hostile one is refused before it acts."""

import os
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from puna.errors import InputError
from puna.model import archive
from puna.model.pickled import PthWriter, read_pth, write_pth
from puna.model.source import Stored
from tests.models import new_model, normal
from tests.pickles import Call, attacks, growth, tensor_code, zipped

ROOT = Path(__file__).resolve().parent.parent
TENSORS = {
    "matrix": normal(0, 3, 5),
    "half": normal(1, 4, 2).half(),
    "brain.weight": normal(2, 7).bfloat16(),
    "double": normal(3, 2, 2, 2).double(),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "whole": torch.arange(-3, 9),
    "bytes": torch.arange(5, dtype=torch.uint8),
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """What torch.save makes of `TENSORS`."""
    torch.save(TENSORS, tmp_path / "saved.00.pth")
    return tmp_path / "saved.00.pth"


def same(found: Mapping[str, Stored], expected: dict[str, Tensor] = TENSORS) -> bool:
    """Whether every stored tensor, once read, is the expected one, with its declared type."""
    return list(found) == list(expected) and all(
        torch.equal(stored.read(), expected[name])
        and (stored.shape, stored.dtype) == (tuple(expected[name].shape), expected[name].dtype)
        for name, stored in found.items()
    )


def stored(tensors: dict[str, Tensor]) -> dict[str, Stored]:
    """Tensors in memory as if they were in a file."""
    return {n: Stored(tuple(t.shape), t.dtype, lambda t=t: t.clone()) for n, t in tensors.items()}


# --- round trips


def test_what_torch_saves_is_read_equal(saved):
    assert same(read_pth(saved))


def test_a_state_dict_with_its_metadata_is_read_equal(tmp_path):
    state = new_model().state_dict()
    assert isinstance(state, OrderedDict) and hasattr(state, "_metadata")
    torch.save(state, tmp_path / "model.pth")
    assert same(read_pth(tmp_path / "model.pth"), dict(state))


def test_parameters_are_read_as_tensors(tmp_path):
    parameters = dict(nn.Linear(3, 2).named_parameters())
    torch.save(parameters, tmp_path / "model.pth")
    expected = {name: parameter.detach() for name, parameter in parameters.items()}
    assert same(read_pth(tmp_path / "model.pth"), expected)


def test_views_of_one_storage_are_read_equal(tmp_path):
    base = normal(0, 6, 4)
    views = {"top": base[:2], "bottom": base[4:], "all": base}
    torch.save(views, tmp_path / "views.pth")
    assert same(read_pth(tmp_path / "views.pth"), views)


def test_a_tensor_can_be_read_into_some_columns_of_a_larger_one(tmp_path):
    rows, columns = 3000, 700  # more than is read at once
    torch.save({"w": normal(0, rows, columns)}, tmp_path / "a.pth")
    larger = torch.zeros(rows, 2 * columns)
    read_pth(tmp_path / "a.pth")["w"].fill(larger[:, columns:])
    expected = torch.cat([torch.zeros(rows, columns), normal(0, rows, columns)], 1)
    assert torch.equal(larger, expected)


def test_some_columns_of_a_tensor_are_written_equal(tmp_path):
    whole = normal(0, 3000, 1400)
    with PthWriter(tmp_path / "a.pth", {"w": ((3000, 700), torch.float32)}) as writer:
        writer.append(whole[:, 700:])
    loaded = torch.load(tmp_path / "a.pth", weights_only=True)
    assert torch.equal(loaded["w"], whole[:, 700:])


@pytest.mark.parametrize("mmap", [False, True])
def test_what_we_write_torch_loads_with_weights_only(tmp_path, saved, mmap):
    write_pth(tmp_path / "ours.pth", read_pth(saved))
    loaded = torch.load(tmp_path / "ours.pth", weights_only=True, mmap=mmap)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    assert all(loaded[name].dtype == TENSORS[name].dtype for name in TENSORS)


def test_what_we_write_we_read_equal(tmp_path):
    write_pth(tmp_path / "ours.pth", stored(TENSORS))
    assert same(read_pth(tmp_path / "ours.pth"))


def test_what_we_write_passes_python_s_own_test_of_a_zip(tmp_path):
    write_pth(tmp_path / "ours.pth", stored(TENSORS))
    with zipfile.ZipFile(tmp_path / "ours.pth") as file:
        assert file.testzip() is None


def test_tensors_lie_at_multiples_of_64_bytes(tmp_path):
    write_pth(tmp_path / "ours.pth", stored(TENSORS))
    members = archive.open_archive(tmp_path / "ours.pth")
    assert {member.start % 64 for member in members.values()} == {0}


def test_writing_the_same_tensors_twice_gives_the_same_bytes(tmp_path):
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "a.pth", tmp_path / "other" / "a.pth"):
        write_pth(path, stored(TENSORS))
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "other" / "a.pth").read_bytes()


def test_a_tensor_that_cannot_be_read_leaves_no_file_and_keeps_the_old_one(tmp_path):
    write_pth(tmp_path / "a.pth", stored({"w": torch.ones(2)}))
    old = (tmp_path / "a.pth").read_bytes()

    def broken() -> Tensor:
        raise InputError("cannot be read")

    tensors = stored({"v": torch.zeros(3)}) | {"w": Stored((2,), torch.float32, broken)}
    with pytest.raises(InputError, match="cannot be read"):
        write_pth(tmp_path / "a.pth", tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    assert (tmp_path / "a.pth").read_bytes() == old


def test_a_folder_that_is_not_there_is_named_when_writing(tmp_path):
    with pytest.raises(InputError, match=r"nowhere/a.pth: cannot be written"):
        write_pth(tmp_path / "nowhere" / "a.pth", stored(TENSORS))


def test_reading_one_tensor_reads_no_other(tmp_path):
    large = {"small": torch.ones(10), "large": torch.zeros(64 << 18)}  # 64 MB
    torch.save(large, tmp_path / "a.pth")
    assert growth(lambda: read_pth(tmp_path / "a.pth")["small"].read()) < 8 << 20


# --- L25: pickles that act


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(tmp_path, name):
    marker = tmp_path / "marker"
    path = zipped(tmp_path / "a.pth", attacks(marker)[name])
    with pytest.raises(InputError, match=r"a.pth: data.pkl "):
        read_pth(path)
    assert not marker.exists()


def test_the_same_attack_works_on_python_s_own_unpickler(tmp_path):
    pickle.loads(attacks(tmp_path / "marker")["os.system"])
    assert (tmp_path / "marker").exists()


def test_a_name_that_is_not_allowed_is_said(tmp_path):
    code = attacks(tmp_path / "marker")["os.system"]
    with pytest.raises(InputError, match=r"data.pkl names 'posix.system', only tensors are read"):
        read_pth(zipped(tmp_path / "a.pth", code))


def test_what_torch_saves_besides_tensors_is_refused_by_name(tmp_path):
    torch.save({"w": torch.ones(2), "step": 3}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"holds 'step', which is no tensor but int"):
        read_pth(tmp_path / "a.pth")


def test_a_dict_in_a_dict_is_refused(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"holds 'model', which is no tensor but dict"):
        read_pth(tmp_path / "a.pth")


def test_an_optimizer_s_state_is_refused(tmp_path):
    state = {"state": {0: {"step": 1.0}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    torch.save(state, tmp_path / "optimizer.pt")
    with pytest.raises(InputError, match=r"optimizer.pt: data.pkl "):
        read_pth(tmp_path / "optimizer.pt")


def foreign(folder: Path) -> dict[str, Path]:
    """Files of other formats that can hold a pickle."""
    places = {n: folder / n for n in ("old.pth", "a.pkl", "a.tar", "a.npy", "a.z", "none", "short")}
    call = pickle.dumps(Call(os.system, f"touch {folder / 'marker'}"))
    torch.save(TENSORS, places["old.pth"], _use_new_zipfile_serialization=False)
    places["a.pkl"].write_bytes(call)
    with tarfile.open(places["a.tar"], "w") as tar:
        tar.add(places["a.pkl"], "pickle")
    np.save(places["a.npy"], np.array([Call(os.system, f"touch {folder / 'marker'}")]))
    places["a.z"].write_bytes(zlib.compress(call))
    places["none"].write_bytes(b"")
    places["short"].write_bytes(b"PK")
    return places


@pytest.mark.parametrize("name", ["old.pth", "a.pkl", "a.tar", "a.npy", "a.z", "none", "short"])
def test_a_file_of_another_format_is_refused_with_the_way_out(tmp_path, name):
    path = foreign(tmp_path)[name]
    with pytest.raises(InputError, match=r"is not a zip .pth, .* re-save it with a current PyT"):
        read_pth(path)
    assert not (tmp_path / "marker").exists()


def test_a_numpy_archive_of_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([Call(os.system, f"touch {tmp_path / 'marker'}")]))
    with pytest.raises(InputError, match=r"a.npz: a member is named b'a.npy'"):
        read_pth(tmp_path / "a.npz")
    assert not (tmp_path / "marker").exists()


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.pth"):
        with pytest.raises(InputError, match=rf"{path.name}: cannot be read: "):
            read_pth(path)


# --- L26: one way in


@pytest.mark.parametrize(
    "words",
    [
        *("pickle.load", "pickle.Unpickler", "allow_pickle", "weights_only=False"),
        *("torch.load(", "import pickle", "from pickle", "import marshal", "import joblib"),
    ],
)
def test_no_source_of_the_package_holds_a_way_to_run_a_pickle(words):
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "puna").rglob("*.py")}
    assert [str(path) for path, text in texts.items() if words in text] == []


# --- descriptions that do not fit the file


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (tensor_code(size=5), r"into data/0 of 20 bytes, which has 16 bytes"),
        (tensor_code(size=1 << 30), r"into data/0 of 4294967296 bytes, which has 16 bytes"),
        (tensor_code(size=-1), r"a size that is no whole number from 0 to 2\^48"),
        (tensor_code(shape=b"K\x05\x85"), r"'w', which reaches outside data/0"),
        (tensor_code(shape=b"J\xff\xff\xff\x7f\x85"), r"'w', which reaches outside data/0"),
        (tensor_code(offset=1), r"'w', which reaches outside data/0"),
        (tensor_code(offset=-1), r"a size that is no whole number"),
        (tensor_code(shape=b"K\xff\x85", stride=b"K\0\x85"), r"'w', which is not contiguous"),
        (tensor_code(shape=b"K\x02K\x02\x86", stride=b"K\x01K\x02\x86"), r"not contiguous"),
        (tensor_code(shape=b"K\x02K\x02\x86"), r"no tuple of at most 8 numbers"),
        (tensor_code(shape=b"(" + b"K\x01" * 9 + b"t"), r"no tuple of at most 8 numbers"),
        (tensor_code(shape=b"\x8a\xff" + b"\x01" * 255 + b"\x85"), r"no whole number"),
        (tensor_code(shape=b"G" + bytes(8) + b"\x85"), r"no whole number"),
        (tensor_code(shape=b"\x88\x85"), r"no whole number"),
        (tensor_code().replace(b"\x01\0\0\x000", b"\x01\0\0\x007"), r"which is missing"),
        (tensor_code().replace(b"\x01\0\0\x000", b"\x04\0\0\x00../0"), r"storage without a number"),
        (tensor_code().replace(b"Float", b"Untyped"), r"names 'torch.UntypedStorage'"),
        (b"\x80\x02}.", r"does not hold a dict of tensors"),
        (b"\x80\x02N.", r"does not hold a dict of tensors"),
        (b"", r"does not begin as torch.save's pickles do"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, code, fault):
    assert code != tensor_code(), "the case changes nothing"
    with pytest.raises(InputError, match=rf"data.pkl .*{fault}"):
        read_pth(zipped(tmp_path / "a.pth", code))


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    code = tensor_code()
    twice = code[:-1] + code[code.index(b"X") :]
    with pytest.raises(InputError, match=r"has the key 'w' twice"):
        read_pth(zipped(tmp_path / "a.pth", twice))


def test_a_transposed_tensor_is_refused_with_the_way_out(tmp_path):
    torch.save({"w": torch.ones(2, 3).t()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"'w', which is not contiguous; save .contiguous\(\)"):
        read_pth(tmp_path / "a.pth")


def test_many_names_of_one_storage_cannot_stand_for_more_than_the_file_holds(tmp_path):
    base = torch.zeros(4096)
    torch.save({str(number): base for number in range(64)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"tensors that are twice as large as the file"):
        read_pth(tmp_path / "a.pth")


LAUGHS = b"\x80\x02)q\0" + b"h\0h\0\x86q\0" * 100  # a tuple of 2^100 leaves


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02" + b"}" * (3 << 20),
        b"\x80\x02" + b"}q\0" * (1 << 20),
        b"\x80\x02" + b"(" * (3 << 20),
        b"\x80\x02)" + b"\x85" * (3 << 20),
        b"\x80\x02}r\xff\xff\xff\xff.",
        b"\x80\x02X\xff\xff\xff\xffabc",
        b"\x80\x02" + b"".join(b"}r%b" % struct.pack("<I", n) for n in range(400_000)),
        b"\x80\x02c" + b"a" * (3 << 20),
        b"\x80\x02X\0\0\x20\0" + b"a" * (2 << 20) + b"}s.",
        LAUGHS + b".",
        LAUGHS[:2] + b"}" + LAUGHS[2:] + b"Ns.",
        LAUGHS + b"R.",
        b"\x80\x02}" + b"X\0\0\0\0" + LAUGHS[2:] + b"s.",
        bytes(5 << 20),
    ],
    ids=range(14),
)
def test_a_pickle_that_wants_much_memory_is_refused_with_little(tmp_path, code):
    path = zipped(tmp_path / "a.pth", code)

    def refused() -> None:
        with pytest.raises(InputError, match=r"a.pth: "):
            read_pth(path)

    assert growth(refused) < 50 << 20


def test_a_name_in_a_message_cannot_steer_a_terminal(tmp_path):
    code = tensor_code(size=5).replace(b"\x01\0\0\0w", b"\x05\0\0\0\x1b[2Jw")
    with pytest.raises(InputError) as caught:
        read_pth(zipped(tmp_path / "a.pth", code))
    assert "\x1b" not in str(caught.value) and r"\x1b[2J" in str(caught.value)


# --- damage


def test_a_file_that_grew_since_it_was_opened_is_refused_when_read(saved):
    tensors = read_pth(saved)
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"saved.00.pth: has \d+ bytes, it had \d+ when opened"):
        tensors["matrix"].read()


def test_a_file_that_is_gone_since_it_was_opened_is_refused_when_read(saved):
    tensors = read_pth(saved)
    saved.unlink()
    with pytest.raises(InputError, match=r"saved.00.pth: cannot be read: No such file"):
        tensors["matrix"].read()


@pytest.mark.parametrize("name", ["top", "all"])
def test_a_flipped_bit_in_a_tensor_is_found_when_it_is_read(tmp_path, name):
    base = normal(0, 6, 4)
    path = tmp_path / "views.pth"
    torch.save({"top": base[:2], "all": base}, path)
    content = bytearray(path.read_bytes())
    content[archive.open_archive(path)["data/0"].start + 80] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"views.pth: views/data/0 is damaged: its CRC-32 is "):
        read_pth(path)[name].read()


def test_500_damaged_bytes_give_the_same_tensors_or_a_refusal(saved):
    content, draw = saved.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(500):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        saved.write_bytes(damaged)
        try:
            assert same(read_pth(saved))
        except InputError:
            refused += 1
    assert 100 < refused < 500


def test_400_damaged_pickles_whose_check_sum_is_right_are_read_or_refused(tmp_path, saved):
    with zipfile.ZipFile(saved) as file:
        members = {name: file.read(name) for name in file.namelist()}
    content = members.pop("saved.00/data.pkl")
    members = {name.replace("saved.00", "archive"): value for name, value in members.items()}
    draw, refused = random.Random(0), 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(2, len(damaged))
            if draw.random() < 0.5:
                damaged[place] = draw.choice(b"().}sutRQbqhXcKJN\x85\x86\x87\x8a")
            else:
                del damaged[place : place + draw.randint(1, 4)]
        try:
            for tensor in read_pth(zipped(tmp_path / "a.pth", bytes(damaged), members)).values():
                tensor.read()
        except InputError:
            refused += 1
    assert 200 < refused < 400
