"""A stand-in for the model hub on this machine: the few endpoints that a download uses, and how they can fail."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves ``repos``: name -> {file: bytes}. ``fault`` makes it answer badly; ``paths`` records what was asked."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that gave up waiting

    def __init__(self, repos: dict[str, dict[str, bytes]], fault: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.fault = repos, fault
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.paths.append(f"{self.command} {path}")
        if self.server.fault == "hang":
            time.sleep(8)
        if self.server.fault in ("401", "403", "500"):
            return self.send(int(self.server.fault), b"{}", body, **self.told())
        for name, files in self.server.repos.items():
            if path in (
                f"/api/models/{name}",
                f"/api/models/{name}/revision/main",
                f"/api/models/{name}/revision/{SHA}",
            ):
                return self.send(200, self.model(name, files), body)
            if path.startswith(f"/api/models/{name}/tree/"):
                return self.send(200, self.tree(files), body)
            if path.startswith(f"/api/models/{name}/revision/"):
                return self.send(404, b"{}", body, **{"X-Error-Code": "RevisionNotFound"})
            for revision in ("main", SHA):
                file = path.removeprefix(f"/{name}/resolve/{revision}/")
                if file != path and file in files:
                    return self.file(files[file], body)
                if file != path:
                    return self.send(404, b"{}", body, **{"X-Error-Code": "EntryNotFound"})
        return self.send(404, b"{}", body, **{"X-Error-Code": "RepoNotFound"})

    def told(self) -> dict[str, str]:
        return {"X-Error-Code": "GatedRepo"} if self.server.fault == "403" else {}

    def model(self, name: str, files: dict[str, bytes]) -> bytes:
        siblings = [{"rfilename": file, "size": len(data)} for file, data in files.items()]
        return json.dumps({"_id": "1", "id": name, "sha": SHA, "siblings": siblings}).encode()

    def tree(self, files: dict[str, bytes]) -> bytes:
        entries = [
            {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for file, data in files.items()
        ]
        return json.dumps(entries).encode()

    def file(self, data: bytes, body: bool) -> None:
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if self.server.fault == "cut" and body and len(data) > 1000:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:500])
            self.close_connection = True
            return
        if self.server.fault == "slow" and body and len(data) > 1000:
            self.send_response(200)
            self.send_header("Content-Length", str(10**9))
            self.end_headers()
            for _ in range(10_000):  # a gigabyte in small pieces, for as long as anybody listens
                self.wfile.write(bytes(100_000))
                time.sleep(0.01)
            return
        self.send(200, data, body, **headers)

    def send(self, status: int, data: bytes, body: bool, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@contextmanager
def serve(repos: dict[str, dict[str, bytes]], fault: str = "") -> Iterator[Hub]:
    with Hub(repos, fault) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def main(path: str) -> None:
    """Serve a folder as ``org/model`` until killed (for trying by hand)."""
    files = {file.name: file.read_bytes() for file in Path(path).iterdir() if file.is_file()}
    with serve({"org/model": files}) as hub:
        print(hub.url, flush=True)
        threading.Event().wait()
