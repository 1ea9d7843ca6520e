"""The GGUF reader: what it reads, and that no file whatever makes it read outside or take memory for nothing."""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.gguf import GgufFile, GgufFiles, open_gguf, read_metadata
from penstock.checkpoints.gguf_types import REFUSED, TYPES
from penstock.errors import CheckpointError, PenstockError, UnsupportedError
from tests.checkpoints.gguf_files import (
    ARRAY,
    BOOL,
    F16,
    F32,
    FLOAT,
    I64,
    Q8_0,
    STRING,
    U8,
    U32,
    U64,
    encode,
    entry,
    info,
    pack,
    text,
    write,
)  # fmt: skip
from tests.helpers import shared

ALIGN = entry("general.alignment", U32, 32)
NAME = entry("general.architecture", STRING, "llama")
VALUES = np.arange(8, dtype=np.float32)


def refused(path: Path, data: bytes) -> bool:
    """Whether ``data`` is refused; what is not refused must be readable to the last byte, within its size."""
    path.write_bytes(data)
    try:
        with GgufFile(path) as source:
            total = sum(source.get(name).nbytes for name in source.names())
            assert total <= len(data)
            for name in source.names():
                source.get(name).tobytes()
            for value in source.metadata.values():
                list(value) if not isinstance(value, bool | int | float) else value
    except PenstockError as error:
        if "\n" in str(error):
            raise
        return True
    return False


def error_of(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        GgufFile(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 700
    return message


# ----------------------------------------------------------------------------------------------------- what it reads


def test_values_of_every_kind_and_tensors_come_back(tmp_path: Path) -> None:
    entries = [
        entry("u8", U8, 200), entry("flag", BOOL, 1), entry("f", FLOAT, 0.5), entry("big", U64, 1 << 63),
        entry("neg", I64, -5), entry("text", STRING, "Grüße 水"), entry("odd", STRING, b"\xff\x00x"),
        entry("words", ARRAY, (STRING, ["a", "", "水"])), entry("numbers", ARRAY, (FLOAT, [0.5, -2.0])),
        entry("flags", ARRAY, (BOOL, [1, 0])), entry("none", ARRAY, (STRING, [])),
    ]  # fmt: skip
    raw = np.arange(68, dtype=np.uint8).tobytes()
    infos = [info("a", (4, 2), F32, 0), info("b.weight", (32, 2), Q8_0, 32)]
    (tmp_path / "m.gguf").write_bytes(pack(entries, infos, VALUES.tobytes() + raw))
    with GgufFile(tmp_path / "m.gguf") as source:
        m = source.metadata
        assert (m["u8"], m["flag"], m["f"], m["big"], m["neg"], m["text"]) == (200, True, 0.5, 1 << 63, -5, "Grüße 水")
        assert m["odd"].encode("utf-8", "surrogateescape") == b"\xff\x00x"
        assert list(m["words"]) == ["a", "", "水"] and m["words"][1:] == ["", "水"] and len(m["none"]) == 0
        assert m["numbers"].tolist() == [0.5, -2.0] and m["flags"].tolist() == [1, 0]
        assert np.array_equal(source.get("a"), VALUES.reshape(2, 4))
        assert source.get("b.weight").tobytes() == raw
        assert source.block_type("b.weight") == "q8_0" and source.shape("b.weight") == (2, 32)
        assert source.info("b.weight").shape == (2, 34)


def test_files_of_the_library_read_the_same(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = shared("golden", "gguf_llama", "Q4_K_M.gguf")
    library = gguf.GGUFReader(path)
    with GgufFile(path) as source:
        assert source.names() == [tensor.name for tensor in library.tensors]
        for tensor in library.tensors:
            assert source.block_type(tensor.name) == tensor.tensor_type.name.lower()
            assert source.shape(tensor.name) == tuple(tensor.shape.tolist()[::-1])
            assert source.get(tensor.name).tobytes() == tensor.data.tobytes()
        fields = {k: f.contents() for k, f in library.fields.items() if not k.startswith("GGUF.")}
        assert source.metadata == fields


@pytest.mark.parametrize("file", ["ggml-vocab-llama-spm.gguf", "ggml-vocab-gpt-2.gguf"])
def test_vocabularies_are_metadata(file: str) -> None:
    metadata = read_metadata(shared("assets", "ggml-vocab", file))
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == len(list(tokens)) > 30_000
    with pytest.raises(CheckpointError, match="no weights, only metadata"):
        Checkpoint.open(shared("assets", "ggml-vocab", file))


def test_the_table_of_types_is_the_library_s() -> None:
    constants = pytest.importorskip("gguf.constants")
    for kind, (elements, nbytes) in constants.GGML_QUANT_SIZES.items():
        if int(kind) in TYPES:
            found = TYPES[int(kind)]
            assert (found.name, found.elements, found.nbytes) == (kind.name.lower(), elements, nbytes)
        else:
            assert REFUSED[int(kind)] == kind.name.lower()


@pytest.mark.parametrize("number", [*REFUSED, 99])
def test_other_types_are_refused_by_name(tmp_path: Path, number: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(pack([NAME], [info("x", (256,), number, 0)], bytes(4096)))
    with pytest.raises(UnsupportedError, match=f"'x' has the type {REFUSED.get(number, 'number 99').upper()}, .*Q4_K"):
        GgufFile(path)


# ------------------------------------------------------------------------------------------------- what it refuses


def one(dims: tuple[int, ...] = (8,), kind: int = F32, offset: int = 0, name: str | bytes = "x") -> bytes:
    return info(name, dims, kind, offset)


DATA = VALUES.tobytes()
BAD: dict[str, tuple[bytes, str]] = {
    "magic": (pack([], [], magic=b"FUGG"), "does not begin with .GGUF"),
    "version 0": (pack([], [], version=0), "big-endian|version 0"),
    "version 1": (pack([], [], version=1), "version 1 is not known"),
    "version too new": (pack([], [], version=4), "version 4 is not known"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "too many tensors": (pack([], [], tensors=1 << 62), "claims .* tensors"),
    "too many entries": (pack([], [], count=1 << 62), "claims .* entries"),
    "all ones": (pack([], [], tensors=(1 << 64) - 1, count=(1 << 64) - 1), "claims"),
    "no tensor behind the count": (pack([ALIGN], [], tensors=1, alignment=1), "beyond the file|claims"),
    "no entry behind the count": (pack([ALIGN], [], count=2, alignment=1), "beyond the file|claims"),
    "key too long": (pack([struct.pack("<Q", 1 << 40) + b"x" * 99], [], count=1), "a key of 1,099,511,627,776 bytes"),
    "key to infinity": (pack([struct.pack("<Q", (1 << 64) - 1) + b"x" * 99], [], count=1), "a key of"),
    "key empty": (pack([entry("", U8, 1)], []), "key is empty"),
    "key with a zero": (pack([entry("a\0b", U8, 1)], []), "holds a zero"),
    "key not text": (pack([entry(b"\xff\xfe", U8, 1)], []), "not UTF-8"),
    "key twice": (pack([ALIGN, ALIGN], []), "'general.alignment' appears twice"),
    "value of an unknown type": (pack([text("a") + struct.pack("<I", 13) + bytes(64)], []), "unknown type 13"),
    "value to infinity": (pack([text("a") + struct.pack("<IQ", STRING, (1 << 64) - 1)], []), "value of 'a'"),
    "neither true nor false": (pack([entry("a", BOOL, 2)], []), "neither true nor false"),
    "array of arrays": (pack([text("a") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(64)], []), "arrays in it"),
    "array of an unknown type": (pack([text("a") + struct.pack("<IIQ", ARRAY, 77, 1) + bytes(64)], []), "type 77"),
    "array too long": (pack([text("a") + struct.pack("<IIQ", ARRAY, U8, 1 << 62)], []), "claims"),
    "array beyond the file": (pack([text("a") + struct.pack("<IIQ", ARRAY, U64, 1 << 20)], []), "beyond the file"),
    "strings beyond the file": (pack([text("a") + struct.pack("<IIQ", ARRAY, STRING, 9999)], []), "beyond the file"),
    "a string beyond the file": (
        pack([text("a") + struct.pack("<IIQQ", ARRAY, STRING, 1, 1 << 40) + bytes(64)], []), "beyond the file"),
    "alignment 0": (pack([entry("general.alignment", U32, 0)], [one()], DATA), "an alignment of '0'"),
    "alignment 33": (pack([entry("general.alignment", U32, 33)], [one()], DATA), "an alignment of '33'"),
    "alignment huge": (pack([entry("general.alignment", U32, 1 << 31)], [one()], DATA), "an alignment of"),
    "alignment of text": (pack([entry("general.alignment", STRING, "32")], [one()], DATA), "an alignment of"),
    "tensor without a name": (pack([], [one(name="")], DATA), "tensor name is empty"),
    "tensor with a long name": (pack([], [one(name="n" * 2000)], DATA), "a tensor name of 2,000 bytes"),
    "tensor twice": (pack([], [one(), one(offset=32)], DATA + DATA), "'x' appears twice"),
    "no dimensions": (pack([], [one(())], DATA), "has 0 dimensions"),
    "five dimensions": (pack([], [one((1, 1, 1, 1, 8))], DATA), "has 5 dimensions"),
    "dimensions to infinity": (pack([], [text("x") + struct.pack("<I", (1 << 32) - 1)], bytes(64)), "dimensions"),
    "a dimension of 0": (pack([], [one((8, 0))], DATA), "no sane shape"),
    "a negative dimension": (pack([], [one(((1 << 64) - 1,))], DATA), "no sane shape"),
    "product overflows": (pack([], [one((1 << 32, 1 << 32))], DATA), "no sane shape"),
    "product wraps to 8": (pack([], [one(((1 << 61) + 1, 8))], DATA), "no sane shape"),
    "bytes overflow": (pack([], [one((1 << 58,))], DATA), "the file at"),
    "no whole blocks": (pack([], [one((33, 2), Q8_0)], bytes(99)), "no whole blocks of q8_0"),
    "offset not where it should be": (pack([], [one(offset=32)], DATA + DATA), "lies at 32 of the data, not at 0"),
    "offset not aligned": (pack([], [one(offset=1)], DATA + DATA), "lies at 1"),
    "offset to infinity": (pack([], [one(offset=(1 << 64) - 32)], DATA), "lies at"),
    "overlap": (pack([], [one(), one(name="y", offset=0)], DATA), "'y' lies at 0 of the data, not at 32"),
    "not enough data": (pack([], [one((9,))], DATA), "ends at byte"),
    "no data": (pack([], [one()]), "ends at byte"),
    "a tensor after the data": (pack([], [one(), one(name="y", offset=32)], DATA), "'y' ends at byte"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_files_are_told(tmp_path: Path, case: str) -> None:
    data, said = BAD[case]
    tracemalloc.start()
    try:
        message = error_of(tmp_path / "m.gguf", data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert re.search(said, message), message


@settings(max_examples=50)
@given(
    words=st.lists(st.text(max_size=9) | st.text(min_size=300, max_size=300), min_size=1, max_size=40),
    native=st.booleans(),
)
def test_strings_of_any_length_with_and_without_the_extension(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], native: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "strings.gguf"
    path.write_bytes(encode({"a.words": words, "behind": 7}, {"t": VALUES}))
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr("penstock.checkpoints.gguf_header.extension", lambda: None)
        with GgufFile(path) as source:
            found = source.metadata["a.words"]
            assert list(found) == found[:] == [found[i] for i in range(len(words))] == words
            assert source.metadata["behind"] == 7
            assert np.array_equal(source.get("t"), VALUES)


def small() -> bytes:
    metadata = {"general.architecture": "llama", "a.flag": True, "a.rate": 0.5, "a.words": ["x", "yz"], "a.n": [1, 2]}
    return encode(metadata, {"t": VALUES, "b": (Q8_0, (32, 1), bytes(34)), "h": VALUES.astype(np.float16)})


def test_truncation_at_every_point_is_an_error(tmp_path: Path) -> None:
    data = small()
    end = len(data) - 16  # the last tensor's padding may be missing
    assert not refused(tmp_path / "m.gguf", data[:end])
    for size in range(end):
        assert refused(tmp_path / "m.gguf", data[:size]), size


def test_every_flipped_bit_is_an_error_or_a_sound_file(tmp_path: Path) -> None:
    data, path = small(), tmp_path / "m.gguf"
    count = 0
    for position in (*range(24 * 8), *range(24 * 8, (len(data) - 130) * 8, 7)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        count += refused(path, bytes(flipped))
    assert count > 200


@settings(max_examples=400)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 500), st.integers(0, 3), st.binary(min_size=1, max_size=9)), min_size=1, max_size=8
    )
)
def test_mutations_never_crash(tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int, bytes]]) -> None:
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
            data[position : position + 8] = struct.pack("<Q", int.from_bytes(value[:8], "big"))
    refused(tmp_path_factory.getbasetemp() / "mutated.gguf", bytes(data))


@settings(max_examples=300)
@given(
    dims=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=5),
    kind=st.integers(0, 45),
    offset=st.integers(0, 2**64 - 1) | st.integers(0, 64),
    room=st.integers(0, 300),
)
def test_any_numbers_in_an_info_never_read_outside(
    tmp_path_factory: pytest.TempPathFactory, dims: list[int], kind: int, offset: int, room: int
) -> None:
    refused(tmp_path_factory.getbasetemp() / "info.gguf", pack([NAME], [info("x", dims, kind, offset)], bytes(room)))


SEEDS = Path(__file__).with_name("gguf_seeds.json")
"""Inputs kept for ever, as hexadecimal."""


def test_saved_seeds(tmp_path: Path) -> None:
    for seed in json.loads(SEEDS.read_text()):
        assert refused(tmp_path / "m.gguf", bytes.fromhex(seed["hex"])) == seed["refused"], seed["why"]


def test_files_that_are_no_model_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    assert "empty" in error_of(path, b"")
    assert "git lfs pull" in error_of(path, b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")
    assert "beyond the file" in error_of(path, b"GGUF")


# ------------------------------------------------------------------------------------------------------ split models


def split(folder: Path, count: int = 2, **more: Any) -> list[Path]:
    paths = [folder / f"m-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1)]
    for n, path in enumerate(paths):
        first = {"general.architecture": "llama", "split.tensors.count": count, **more} if n == 0 else {}
        write(path, {**first, "split.no": n, "split.count": count}, {f"t{n}": VALUES + n})
    return paths


def test_parts_are_one_model_whichever_is_given(tmp_path: Path) -> None:
    for path in split(tmp_path, 3):
        with open_gguf([path]) as source:
            assert isinstance(source, GgufFiles)
            assert source.metadata["general.architecture"] == "llama"
            assert [float(source.get(f"t{n}")[0]) for n in range(3)] == [0, 1, 2]
            source.release("t1")


def test_parts_that_do_not_belong_together_are_told(tmp_path: Path) -> None:
    paths = split(tmp_path)
    write(paths[1], {"split.no": 0, "split.count": 2}, {"t1": VALUES})
    with pytest.raises(CheckpointError, match="says it is part 0 of 2"):
        open_gguf(paths[:1])
    write(paths[1], {"split.no": 1, "split.count": 2}, {"t0": VALUES})
    with pytest.raises(CheckpointError, match="earlier part has too: t0"):
        open_gguf(paths[:1])
    split(tmp_path, **{"split.tensors.count": 7})
    with pytest.raises(CheckpointError, match="should have 7 tensors and have 2"):
        open_gguf(paths[:1])
    paths[1].unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 parts missing: m-00002-of-00002\.gguf"):
        open_gguf(paths[:1])


def test_a_folder_of_several_models_needs_a_choice(tmp_path: Path) -> None:
    for name in ("a", "b", "mmproj-x"):
        write(tmp_path / f"{name}.gguf", {"general.architecture": "llama"}, {"t": VALUES})
    with pytest.raises(CheckpointError, match=r"several models in one folder: a\.gguf, b\.gguf; give the path"):
        Checkpoint.open(tmp_path)


def test_unknown_architectures_name_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", {"general.architecture": "qwen22"}, {"t": VALUES})
    with pytest.raises(UnsupportedError, match=r"'qwen22' is not supported \(did you mean 'qwen2'\?\)"):
        Checkpoint.open(path)
    path = write(tmp_path / "m.gguf", {"general.architecture": "llama"}, {"t": VALUES})
    with pytest.raises(CheckpointError, match=r"m\.gguf: there is no tensor 'token_embd"):
        Checkpoint.open(path)


def test_half_precision_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(pack([NAME], [info("h", (8,), F16, 0)], VALUES.astype(np.float16).tobytes()))
    with GgufFile(path) as source:
        assert np.array_equal(source.get("h"), VALUES.astype(np.float16))
