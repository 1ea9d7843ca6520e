"""The safetensors reader: the library's files read the same, and no damage gets past it."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.checkpoints.safetensors import DTYPES, MAX_HEADER, SafetensorsFile
from penstock.checkpoints.source import TensorInfo
from penstock.errors import CheckpointError, PenstockError, UnsupportedError
from tests.checkpoints.files import encode, header_of, pack, some_tensors, write

LIBRARY = [dtype for code, dtype in DTYPES.items() if code != "F8_E8M0"]


def read(path: Path) -> dict[str, np.ndarray]:
    with SafetensorsFile(path) as source:
        return {name: source.get(name).copy() for name in source.names()}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def error_of(path: Path, data: bytes) -> str:
    """The one line that reading ``data`` ends in; it names the file."""
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_every_dtype_and_shape_comes_back(tmp_path: Path) -> None:
    tensors = some_tensors()
    found = read(write(tmp_path / "m.safetensors", tensors))
    assert found.keys() == tensors.keys()
    assert all(same(found[name], tensors[name]) for name in tensors)


def test_facts_are_told_without_reading_data(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"a": np.zeros((2, 3), np.float16)})
    with SafetensorsFile(path) as source:
        info = source.info("a")
        assert info == TensorInfo("a", np.dtype(np.float16), (2, 3), 12, path)
        with pytest.raises(KeyError):
            source.info("b")


@given(st.data())
def test_files_of_the_library_read_the_same(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    numpy_io = pytest.importorskip("safetensors.numpy")
    names = data.draw(
        st.lists(st.text(min_size=1, max_size=12).filter(lambda n: n != "__metadata__"), max_size=5, unique=True)
    )
    tensors = {}
    for name in names:
        dtype = data.draw(st.sampled_from([d for d in LIBRARY if d.kind in "fiub"]))
        shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
        tensors[name] = np.random.default_rng(len(name)).integers(0, 100, shape).astype(dtype)
    path = tmp_path_factory.mktemp("lib") / "m.safetensors"
    path.write_bytes(numpy_io.save(tensors, {"format": "np"}))
    found = read(path)
    assert found.keys() == tensors.keys()
    assert all(same(found[name], tensors[name]) for name in tensors)


def test_files_that_we_write_in_tests_are_valid_to_the_library(tmp_path: Path) -> None:
    torch_io = pytest.importorskip("safetensors")
    path = write(tmp_path / "m.safetensors", some_tensors())
    with torch_io.safe_open(str(path), "np") as file:
        assert set(file.keys()) == set(some_tensors())


def test_views_are_of_the_file_and_read_only(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"a": np.arange(6, dtype=np.float32)})
    source = SafetensorsFile(path)
    view = source.get("a")
    assert not view.flags.writeable
    assert not view.flags.owndata
    source.release("a")
    source.close()
    assert view.tolist() == [0, 1, 2, 3, 4, 5], "a view outlives its source"
    with pytest.raises(CheckpointError, match="closed"):
        source.get("a")


def test_misaligned_data_is_given_aligned(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {"odd": np.arange(3, dtype=np.int8), "a": np.arange(4, dtype=np.float32)}
    found = read(write(tmp_path / "m.safetensors", tensors))
    assert same(found["a"], tensors["a"])
    with SafetensorsFile(tmp_path / "m.safetensors") as source:
        assert source.get("a").ctypes.data % 4 == 0


def test_a_file_that_shrinks_while_open_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"a": np.zeros(5000, np.float32)})
    with SafetensorsFile(path) as source:
        with path.open("r+b") as file:
            file.truncate(5000)
        with pytest.raises(CheckpointError, match="became shorter"):
            source.get("a")


HEADERS = {
    "hole": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "hole of 4 bytes"),
    "hole at the end": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "file holds 8"),
    "overlap": (
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        },
        "overlaps",
    ),
    "beyond": ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "lies at bytes 0..12"),
    "backwards": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, "lies at bytes 8..0"),
    "negative": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, "data_offsets"),
    "float offsets": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8.0]}}, "data_offsets"),
    "huge offset": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 64]}}, "data_offsets"),
    "wrong size": ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "does not fill"),
    "product wraps": (
        {"a": {"dtype": "F32", "shape": [1 << 62, 4, 2], "data_offsets": [0, 8]}},
        "shape",
    ),
    "negative shape": ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, "shape"),
    "bool shape": ({"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, "shape"),
    "text shape": ({"a": {"dtype": "F32", "shape": "22", "data_offsets": [0, 8]}}, "shape"),
    "rank": ({"a": {"dtype": "F32", "shape": [1] * 40, "data_offsets": [0, 8]}}, "shape"),
    "dtype number": ({"a": {"dtype": 7, "shape": [2], "data_offsets": [0, 8]}}, "dtype"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "has no dtype"),
    "no entry": ({"a": None}, "has no dtype"),
    "metadata": ({"__metadata__": {"x": 1}}, "__metadata__"),
    "long name": ({"n" * 5000: {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}, "nnn..."),
    "newline in a name": ({"a\nb": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}, r"'a\nb'"),
    "list": ("{]", "not valid JSON"),
    "twice": (
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        "'a' appears twice",
    ),
    "deep": ('{"a":' + "[" * 100_000, "nested too deeply"),
    "not utf-8": (b'{"\xff":{}}', "not valid JSON"),
    "long integer": ('{"a":{"dtype":"F32","shape":[' + "9" * 9000 + '],"data_offsets":[0,8]}}', "not valid JSON"),
    "many entries": ("{" + "[" * 2_000_000, "more entries"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_wrong_headers_are_told(tmp_path: Path, case: str) -> None:
    header, said = HEADERS[case]
    message = error_of(tmp_path / "m.safetensors", pack(header, bytes(8)))
    assert said in message
    assert "download it again" in message
    assert len(message) < 600


def test_an_unknown_dtype_is_unsupported_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(pack({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, bytes(1)))
    with pytest.raises(UnsupportedError, match="dtype 'F4', known are F64"):
        SafetensorsFile(path)


@pytest.mark.parametrize("length", [MAX_HEADER + 1, (1 << 64) - 1, 1 << 63, 1000])
def test_header_length_is_checked_before_use(tmp_path: Path, length: int) -> None:
    message = error_of(tmp_path / "m.safetensors", struct.pack("<Q", length) + b"{}" * 4)
    assert "header claims" in message


def test_what_is_no_safetensors_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    assert "empty" in error_of(path, b"")
    assert "too short" in error_of(path, b"1234567")
    assert "not a safetensors file" in error_of(path, struct.pack("<Q", 4) + b"PK\3\4")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n"
    assert "git lfs pull" in error_of(path, pointer)


def test_paths_that_are_no_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        SafetensorsFile(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        SafetensorsFile(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        SafetensorsFile(tmp_path / "pipe.safetensors")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="link to a file that is gone"):
        SafetensorsFile(tmp_path / "link.safetensors")


def small() -> bytes:
    return encode(
        {"layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2, np.int8)}, {"a": "b"}
    )


def test_truncation_at_every_point_is_an_error(tmp_path: Path) -> None:
    data = small()
    for size in range(len(data)):
        error_of(tmp_path / "m.safetensors", data[:size])
    error_of(tmp_path / "m.safetensors", data + b"\0")


def test_every_flipped_bit_is_an_error_or_a_sound_file(tmp_path: Path) -> None:
    """A flipped bit may give another valid file (a name, a value): then all its tensors lie inside it."""
    data, path = small(), tmp_path / "m.safetensors"
    refused = 0
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        refused += outcome(path, bytes(flipped))
    assert refused > 300


def outcome(path: Path, data: bytes) -> bool:
    """Whether ``data`` is refused; what is not refused must be readable to the last byte, within its size."""
    path.write_bytes(data)
    try:
        with SafetensorsFile(path) as source:
            total = sum(source.get(name).nbytes for name in source.names())
            assert total <= len(data)
            for name in source.names():
                source.get(name).tobytes()
    except PenstockError as error:
        if "\n" in str(error):
            raise
        return True
    return False


SEEDS = Path(__file__).with_name("fuzz_seeds.json")
"""Inputs kept for ever, as hexadecimal: those that once mattered are added here."""


def test_saved_seeds(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        for seed in json.loads(SEEDS.read_text()):
            data = bytes.fromhex(seed["hex"])
            assert outcome(tmp_path / "m.safetensors", data) == seed["refused"], seed["why"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


@settings(max_examples=400)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(min_size=1, max_size=6)), min_size=1, max_size=8
    ),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_mutations_never_crash(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int, bytes]], length: int | None
) -> None:
    data = bytearray(small())
    for position, kind, value in edits:
        position %= len(data) + 1
        if kind == 0:
            data[position : position + len(value)] = value
        elif kind == 1:
            data[position:position] = value
        elif kind == 2:
            del data[position : position + len(value)]
        else:
            data[position : position + 1] = str(int.from_bytes(value, "big")).encode()
    if length is not None:
        data[:8] = struct.pack("<Q", length)
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    outcome(path, bytes(data))


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: (
            st.lists(x) | st.dictionaries(st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), x)
        ),
    )
)
def test_any_json_as_header_never_crashes(tmp_path_factory: pytest.TempPathFactory, header: object) -> None:
    outcome(tmp_path_factory.getbasetemp() / "json.safetensors", pack(header, bytes(8)))


@settings(max_examples=300)
@given(
    shape=st.lists(st.integers(-1, 2**64), max_size=4),
    start=st.integers(-1, 40) | st.integers(0, 2**65),
    size=st.integers(-1, 40) | st.integers(0, 2**65),
    code=st.sampled_from([*DTYPES, "F4", "", "f32"]),
)
def test_any_numbers_in_an_entry_never_read_outside(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], start: int, size: int, code: str
) -> None:
    header = {"a": {"dtype": code, "shape": shape, "data_offsets": [start, start + size]}}
    outcome(tmp_path_factory.getbasetemp() / "entry.safetensors", pack(header, bytes(24)))


def test_our_verdict_is_the_library_s(tmp_path: Path) -> None:
    """Single edits of the header's numbers: what the library refuses, we refuse (we may refuse more)."""
    library = pytest.importorskip("safetensors")
    tensors: dict[str, Any] = {"a": np.arange(4, dtype=np.float32), "b": np.arange(2, dtype=np.int64)}
    data = b"".join(array.tobytes() for array in tensors.values())
    accepted = 0
    for name in tensors:
        for key, value in [("shape", [2, 2]), ("shape", [4]), ("shape", [1, 1, 2]), ("shape", [0]), ("dtype", "I32"),
                           ("dtype", "F64"), ("dtype", "I8"), ("data_offsets", [0, 16]), ("data_offsets", [16, 32]),
                           ("data_offsets", [0, 32]), ("data_offsets", [32, 32])]:  # fmt: skip
            header = header_of(tensors)
            header[name] = {**header[name], key: value}
            packed = pack(header, data)
            try:
                library.deserialize(packed)
            except library.SafetensorError:
                assert outcome(tmp_path / "m.safetensors", packed), (name, key, value)
            else:
                assert not outcome(tmp_path / "m.safetensors", packed), (name, key, value)
                accepted += 1
    assert accepted >= 4
