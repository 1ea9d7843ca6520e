"""Folders that penstock writes to, the port it would serve on, and the hubs it downloads from."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from penstock.cli.checks.finding import Finding, ok, warn
from penstock.memory import human_bytes

GIB = 1 << 30
TIMEOUT = 5.0


def folders() -> Iterator[Finding]:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    hub = os.environ.get("HF_HUB_CACHE") or f"{home}/hub"
    yield from _folder("model cache", Path(hub).expanduser(), "HF_HUB_CACHE")
    scope = os.environ.get("MODELSCOPE_CACHE")
    if scope:
        yield from _folder("modelscope", Path(scope).expanduser(), "MODELSCOPE_CACHE")
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "penstock"
    yield from _folder("chat history", state, "XDG_STATE_HOME", least=1 << 20)


def _folder(name: str, path: Path, variable: str, least: int = 5 * GIB) -> Iterator[Finding]:
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.W_OK):
        yield warn(name, f"{path} cannot be written to", f"chown it, or set {variable} to another folder")
        return
    free = shutil.disk_usage(there).free
    text = f"{path}, {human_bytes(free)} free"
    if free < least:
        yield warn(name, text, f"make room, or set {variable} to a folder on a larger disk")
    else:
        yield ok(name, text)


def port(number: int) -> Iterator[Finding]:
    """Whether ``penstock serve`` could listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", number))
        except OSError as error:
            text = f"{number} on 127.0.0.1: {error.strerror}"
            yield warn("port", text, "take another one: penstock serve --port 8001")
            return
    yield ok("port", f"{number} on 127.0.0.1 is free")


def network() -> Iterator[Finding]:
    """Both hubs, and for one that does not answer, at which step: proxy, name, connection, or TLS."""
    yield from hub("hub", os.environ.get("HF_ENDPOINT") or "https://huggingface.co", "HF_ENDPOINT")
    yield from hub("modelscope", "https://www.modelscope.cn", "PENSTOCK_USE_MODELSCOPE")


def hub(name: str, address: str, variable: str) -> Iterator[Finding]:
    parts = urlsplit(address)
    host, secure = parts.hostname or address, parts.scheme != "http"
    target = host, parts.port or (443 if secure else 80)
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") if secure else None
    via = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else None
    if via is not None and via.hostname:
        target = via.hostname, via.port or 8080
    mirror = f"check the network; a mirror can be named with {variable}" if name == "hub" else "check the network"
    try:
        with socket.create_connection(target, TIMEOUT) as line:
            if via is None and secure:
                ssl.create_default_context().wrap_socket(line, server_hostname=host).close()
    except socket.gaierror:
        yield warn(name, f"the name {target[0]} cannot be resolved",
                   "DNS: check /etc/resolv.conf (in WSL, set a nameserver there), or set HTTPS_PROXY")  # fmt: skip
    except ssl.SSLError as error:
        yield warn(name, f"{host}: TLS fails: {error.reason}",
                   "a proxy may replace certificates: set SSL_CERT_FILE to its authority's file")  # fmt: skip
    except TimeoutError:
        yield warn(name, f"{target[0]} does not answer within {TIMEOUT:g} s", mirror)
    except OSError as error:
        yield warn(name, f"{target[0]}:{target[1]}: {error.strerror or error}", mirror)
    else:
        yield ok(name, f"{host} answers" + (f" (proxy {target[0]}:{target[1]})" if via is not None else ""))
