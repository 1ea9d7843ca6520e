"""Bytes as text: the printable alphabet of byte-level BPE, and UTF-8 that arrives in pieces."""

from __future__ import annotations

import re
from functools import lru_cache

REPLACEMENT = "\ufffd"
ESCAPED = re.compile("[\udc80-\udcff]")


@lru_cache(maxsize=1)
def char_to_byte() -> dict[str, int]:
    """The alphabet of GPT-2's byte-level BPE: printable Latin-1 stands for itself, the rest for U+0100 and up."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in set(plain))
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}


def piece_to_bytes(piece: str) -> bytes:
    """The bytes that a byte-level ``piece`` stands for; a piece with a character outside the alphabet is UTF-8 text."""
    table = char_to_byte()
    try:
        return bytes([table[char] for char in piece])
    except KeyError:
        return piece.encode("utf-8", "replace")


def decode_utf8(data: bytes, *, final: bool, replace_each: bool) -> tuple[str, bytes]:
    """Decode as much of ``data`` as can be decoded: ``(text, rest)``.

    ``rest`` is an incomplete character at the end (at most 3 bytes), or empty when ``final``. Invalid bytes become
    U+FFFD: one for each byte with ``replace_each`` (what SentencePiece does), else one for each maximal invalid
    sequence (what byte-level decoders do, Unicode 15 section 3.9).
    """
    rest = b""
    if not final and (count := _incomplete(data)):
        data, rest = data[:-count], data[-count:]
    if replace_each:
        return ESCAPED.sub(REPLACEMENT, data.decode("utf-8", "surrogateescape")), rest
    return data.decode("utf-8", "replace"), rest


def _incomplete(data: bytes) -> int:
    """How many bytes at the end of ``data`` begin a character that further bytes may complete (0 to 3)."""
    for count in range(1, min(3, len(data)) + 1):
        tail = data[-count:]
        if tail[0] < 0x80:
            return 0
        if tail[0] >= 0xC0:
            try:
                tail.decode("utf-8")
            except UnicodeDecodeError as error:
                return count if error.start == 0 and error.reason == "unexpected end of data" else 0
            return 0
    return 0
