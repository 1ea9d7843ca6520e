"""API keys: kept as digests, compared in constant time, never logged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from penstock.errors import ConfigError
from penstock.server.errors import HttpError

MAX_KEY_FILE = 1 << 20


class Keys:
    """The keys that are let in; none at all lets everybody in."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in dict.fromkeys(keys)]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises 401 unless ``Authorization: Bearer KEY`` or ``x-api-key: KEY`` names a known key."""
        if not self._digests:
            return
        given = given_key(headers)
        if given is None:
            raise _unauthorized("this server wants an API key: send 'Authorization: Bearer KEY'")
        digest = _digest(given)
        found = False
        for known in self._digests:  # all of them, so that the time tells nothing
            found |= hmac.compare_digest(digest, known)
        if not found:
            raise _unauthorized("the API key is not known here")


def given_key(headers: Mapping[str, str]) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key") or None


def load_keys(keys: Iterable[str], file: str | None) -> Keys:
    """Keys from options and from a file with one a line (``#`` begins a comment)."""
    found = [key.strip() for key in keys]
    if file:
        path = Path(file).expanduser()
        try:
            if path.stat().st_size > MAX_KEY_FILE:
                raise ConfigError(f"{file}: larger than 1 MiB, too large for a file of API keys")
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the API keys in {file}: {error}") from None
        found += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not found:
            raise ConfigError(f"{file} holds no API key: one a line")
    if any(not key for key in found):
        raise ConfigError("an API key is empty: an empty key would let everybody in")
    return Keys(found)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _unauthorized(message: str) -> HttpError:
    return HttpError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})
