"""The built files, read once, compressed once, with the headers that keep a page to itself."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from importlib.resources.abc import Traversable

from penstock.server.http import Reply

INDEX = "index.html"
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "woff2": "font/woff2",
    "json": "application/json",
    "webmanifest": "application/manifest+json",
    "md": "text/plain; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
}
POLICY = "; ".join((
    "default-src 'self'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "font-src 'self'",
    "connect-src 'self'", "object-src 'none'", "frame-src 'none'", "worker-src 'none'", "base-uri 'none'",
    "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
    "trusted-types dompurify 'allow-duplicates'",
))  # fmt: skip
"""No inline script or style, nothing from elsewhere, no HTML from strings but what DOMPurify has seen."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_HASHED = re.compile(r".+-[A-Za-z0-9_-]{8}\.[a-z0-9]+")
_SMALL = 1024
_PACKED = frozenset({"html", "js", "css", "svg", "json", "webmanifest", "md", "txt"})


@dataclass(frozen=True, slots=True)
class File:
    """A built file. ``packed``: its gzip, where that is worth it."""

    body: bytes
    packed: bytes | None
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def reply(self, asked: Mapping[str, str]) -> Reply:
        """The answer to a request with these headers: 304 for those who have it."""
        found = dict(self.headers)
        if _has(asked.get("if-none-match", ""), found["ETag"]):
            return Reply(b"", 304, self.content_type, found)
        if self.packed is not None and _takes_gzip(asked.get("accept-encoding", "")):
            return Reply(self.packed, 200, self.content_type, {**found, "Content-Encoding": "gzip"})
        return Reply(self.body, 200, self.content_type, found)


@cache
def built() -> Mapping[str, File]:
    """The files by their path below ``static/``; empty when the page was never built."""
    root = files("penstock.server.page") / "static"
    return dict(_walk(root, "")) if root.is_dir() else {}


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, File]]:
    found: list[tuple[str, File]] = []
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            found += _walk(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in TYPES:
            found.append((prefix + entry.name, _file(entry)))
    return found


def _file(entry: Traversable) -> File:
    body, ending = entry.read_bytes(), entry.name.rpartition(".")[2]
    # A name that holds a hash of the content is never given to another content.
    caching = "public, max-age=31536000, immutable" if _HASHED.fullmatch(entry.name) else "no-cache"
    packed = gzip.compress(body, 9, mtime=0) if ending in _PACKED and len(body) > _SMALL else None
    headers = {
        **HEADERS,
        "ETag": f'W/"{blake2b(body, digest_size=12).hexdigest()}"',
        "Cache-Control": caching,
        "Vary": "Accept, Accept-Encoding" if ending == "html" else "Accept-Encoding",
    }
    return File(body, packed, TYPES[ending], headers)


def _has(given: str, tag: str) -> bool:
    return given.strip() == "*" or tag in [t.strip() for t in given.split(",")]


def _takes_gzip(accepted: str) -> bool:
    for part in accepted.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
