"""Words of codes turned into rows: number by number against what the layouts mean, by the extension and in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.quant import words
from penstock.quant.words import ORDER, awq_rows, transposed

native = pytest.importorskip("penstock._native")
SIZES = st.integers(1, 300)
COLUMNS = st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 600]))
LIES = st.sampled_from(["plain", "in columns", "part of wider rows", "at an odd address", "read only"])


def made(rows: int, columns: int, lies: str, seed: int) -> np.ndarray:
    """Random words, in memory as a file's view may be."""
    r = np.random.default_rng(seed)
    found = r.integers(-(1 << 31), 1 << 31, (rows, columns), dtype=np.int64).astype(np.int32)
    if lies == "in columns":
        return np.asfortranarray(found)
    if lies == "part of wider rows":
        return np.pad(found, ((0, 0), (2, 5)))[:, 2:-5]
    if lies == "at an odd address":
        return np.frombuffer(b"." + found.tobytes(), np.int32, offset=1).reshape(found.shape)
    if lies == "read only":
        found.flags.writeable = False
    return found


@pytest.fixture(params=["extension", "numpy"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(words, "extension", lambda: None)
    return str(request.param)


@pytest.mark.usefixtures("by")
class TestRows:
    @given(SIZES, COLUMNS, LIES, st.sampled_from([0, 0x80]), st.integers(0, 99))
    @example(1, 1, "plain", 0, 0)
    @example(16, 16, "plain", 0x80, 0)
    def test_transposed(self, a: int, b: int, lies: str, flip: int, seed: int) -> None:
        source = made(a, b, lies, seed)
        shifts = np.arange(0, 32, 8)
        expected = (source.T[:, :, None].astype(np.int64) >> shifts & 255).reshape(b, 4 * a).astype(np.uint8)
        assert np.array_equal(transposed(source, flip), expected ^ np.uint8(flip))

    @given(SIZES, COLUMNS, LIES, st.integers(0, 99))
    @example(1, 1, "plain", 0)
    @example(64, 16, "plain", 0)
    def test_awq(self, half: int, columns: int, lies: str, seed: int) -> None:
        source = made(2 * half, columns, lies, seed)
        codes = np.empty((2 * half, columns, 8), np.uint8)
        for nibble, output in enumerate(ORDER):
            codes[:, :, output] = source.astype(np.int64) >> (4 * nibble) & 15
        rows = codes.reshape(2 * half, -1).T
        assert np.array_equal(awq_rows(source), rows[:, 0::2] | rows[:, 1::2] << 4)

    def test_of_nothing(self) -> None:
        assert transposed(np.zeros((0, 3), np.int32)).shape == (3, 0)
        assert transposed(np.zeros((3, 0), np.int32)).shape == (0, 12)
        assert awq_rows(np.zeros((4, 0), np.int32)).shape == (0, 2)


@pytest.mark.parametrize("shape", [(3, 16), (4, 15), (0, 0), (16, 4)])
def test_the_extension_refuses_room_that_does_not_fit(shape: tuple[int, int]) -> None:
    source, room = np.zeros((4, 3), np.int32), np.zeros(shape, np.uint8)
    if shape != (3, 16):
        with pytest.raises(ValueError, match="a row of bytes for each column"):
            native.transpose_words(source, room, 0)
    with pytest.raises(ValueError, match="eight rows for each column"):
        native.unpack_awq(source, room)


def test_the_extension_refuses_words_that_are_not_in_rows() -> None:
    with pytest.raises(ValueError, match="in rows"):
        native.transpose_words(np.zeros((3, 8), np.int32)[:, ::2], np.zeros((4, 12), np.uint8), 0)
    with pytest.raises(ValueError, match="in rows"):
        native.unpack_awq(np.zeros((4, 3), np.int32)[::-1], np.zeros((24, 2), np.uint8))
    with pytest.raises(ValueError, match="eight rows for each column"):
        native.unpack_awq(np.zeros((3, 3), np.int32), np.zeros((24, 1), np.uint8))
