"""Where HTTP ends and handlers begin: routes, checks, the body, the client's presence, and every error."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import msgspec
from starlette.routing import compile_path
from starlette.types import Message, Receive, Scope, Send

from penstock.errors import OverloadedError
from penstock.server.body import field_names
from penstock.server.current import CURRENT, Current
from penstock.server.disconnect import unless_gone
from penstock.server.errors import ClientGone, HttpError, Problem, not_found, problem
from penstock.server.http import Call, Dialect, Endpoint, Reply, Stream, encode
from penstock.server.library import NotLoaded
from penstock.server.limits import check_content_type, check_host, check_origin, read_body
from penstock.server.protocol import TRANSPORT
from penstock.server.state import State

logger = logging.getLogger("penstock.access")

LOADS = 4
"""How often a request's model may be loaded and lost again before it gets its turn."""
ALIASES = {"prompt": ("messages", "input", "inputs"), "max_tokens": ("max_output_tokens",)}
"""Fields that requests of some kinds have under other names."""
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Edge:
    """The ASGI application. ``dialects``: the first one's error form is for paths that nobody claims."""

    def __init__(self, state: State, dialects: Sequence[Dialect]) -> None:
        self.state = state
        self.dialects = dialects
        self._exact: dict[str, dict[str, tuple[Endpoint, Dialect]]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, tuple[Endpoint, Dialect]]]] = []
        for dialect in dialects:
            for endpoint in dialect.endpoints:
                self._add(endpoint, dialect)

    def _add(self, endpoint: Endpoint, dialect: Dialect) -> None:
        if "{" not in endpoint.path:
            self._exact.setdefault(endpoint.path, {}).setdefault(endpoint.method, (endpoint, dialect))
            return
        pattern, _, _ = compile_path(endpoint.path)
        methods = next((m for p, m in self._patterns if p.pattern == pattern.pattern), None)
        if methods is None:
            methods = {}
            self._patterns.append((pattern, methods))
        methods.setdefault(endpoint.method, (endpoint, dialect))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    def route(self, scope: Scope) -> tuple[Endpoint, Dialect, dict[str, str]]:
        """Raises 404 or 405."""
        path, method = scope["path"], scope["method"]
        methods, params = self._exact.get(path) or self._exact.get(path.rstrip("/")), {}
        if methods is None:
            for pattern, candidates in self._patterns:
                match = pattern.match(path)
                if match:
                    methods, params = candidates, match.groupdict()
                    break
        if methods is None:
            raise not_found(f"there is nothing at {path[:200]}", "not_found")
        found = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        if found is None:
            allowed = ", ".join(sorted(methods))
            raise HttpError(
                405, "method_not_allowed", f"{path} wants {allowed}, not {method[:20]}", headers={"Allow": allowed}
            )
        return (*found, params)

    def dialect_of(self, path: str) -> Dialect:
        """Whose error form a path gets before it is routed: by the longest prefix."""
        claims = [(len(p), i) for i, d in enumerate(self.dialects) for p in d.prefixes if path.startswith(p)]
        return self.dialects[max(claims)[1] if claims else 0]


class _Exchange:
    """One request and its answer."""

    def __init__(self, edge: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        self.edge, self.state = edge, edge.state
        self.scope, self.receive, self._asgi_send = scope, receive, send
        self.headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        given = self.headers.get("x-request-id", "")
        self.request_id = given if _SAFE_ID.fullmatch(given) else uuid4().hex
        self.dialect = edge.dialect_of(scope["path"])
        self.status = 0
        self.route, self.quiet = "unmatched", False
        self.body: type[msgspec.Struct] | None = None
        self._deadline: asyncio.Timeout | None = None
        self.began = time.perf_counter()
        tracing = self.state.tracing
        trace = None if tracing is None else tracing.trace(self.headers, self.request_id)
        self.current = Current(self.request_id, trace=trace)
        self.call: Call | None = None

    async def run(self) -> None:
        CURRENT.set(self.current)
        try:
            await self._serve()
        except ClientGone:
            self.state.metrics.disconnects += 1
            self.status = self.status or 499
        except Exception as error:
            await self._answer_error(problem(error))
        finally:
            for name in self.current.using:
                self.state.library.leave(name)
            self.state.metrics.responses[self.route, self.status] += 1
            if self.state.options.log_requests and not (self.quiet and self.status < 400):
                self._log()

    async def _serve(self) -> None:
        state, headers = self.state, self.headers
        if self.scope["http_version"] not in ("1.0", "1.1"):
            raise HttpError(505, "http_version", "only HTTP/1.0 and HTTP/1.1 are spoken here")
        check_host(headers, state.options)
        endpoint, self.dialect, params = self._route()
        if endpoint.admin:
            state.check_admin(headers)
        elif not endpoint.public:
            state.keys.check(headers)
        check_origin(headers, state.options)
        body = b""
        if endpoint.method == "POST":
            if not endpoint.raw:
                check_content_type(headers)
            body = await read_body(self.receive, headers, state.options)
        query = dict(parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=64))
        self.call = call = Call(state, self.scope, body, self.request_id, headers, params, query)
        if endpoint.public or endpoint.always:
            await self._work(endpoint, call)
            return
        client = state.client(headers, str((self.scope.get("client") or ("",))[0]))
        self.current.client = client
        state.admit(client)
        await unless_gone(self.receive, self._tracked(endpoint, call, client))

    def _route(self) -> tuple[Endpoint, Dialect, dict[str, str]]:
        """The route; where keys are wanted, nobody without one learns which paths there are."""
        try:
            found = self.edge.route(self.scope)
        except HttpError:
            self.state.keys.check(self.headers)
            raise
        self.route, self.quiet, self.body = found[0].path, found[0].quiet, found[0].body
        return found

    async def _tracked(self, endpoint: Endpoint, call: Call, client: str) -> None:
        with self.state.serving(client):
            try:
                async with asyncio.timeout(self.state.options.request_timeout or None) as self._deadline:
                    await self._work(endpoint, call)
            except ClientGone:
                raise
            except (Exception, asyncio.CancelledError) as error:
                await self._answer_error(self._told(error))

    def _told(self, error: BaseException) -> Problem:
        """What the client hears; a cancellation that nobody here asked for goes on its way."""
        if self._late:
            limit = self.state.options.request_timeout
            return Problem(504, "timeout", f"the answer was not ready within {limit:g} s")
        if isinstance(error, asyncio.CancelledError) and not self.state.aborting:
            raise error
        return problem(error)

    @property
    def _late(self) -> bool:
        when = self._deadline.when() if self._deadline is not None else None
        return when is not None and asyncio.get_running_loop().time() >= when

    async def _work(self, endpoint: Endpoint, call: Call) -> None:
        answer = await self._answer(endpoint, call)
        if isinstance(answer, Reply):
            await self._start(answer.status, answer.content_type, answer.headers, len(answer.body))
            await self._send({"type": "http.response.body", "body": b"" if self._head else answer.body})
        else:
            await self._stream(answer)

    async def _answer(self, endpoint: Endpoint, call: Call) -> Reply | Stream:
        """What the handler says, asked again when a model that it wants has been loaded."""
        for _ in range(LOADS):
            try:
                return await endpoint.handler(call)
            except NotLoaded as wish:
                if wish.name not in self.current.using:  # from now on, so that nobody takes it away in between
                    self.current.using.append(wish.name)
                    self.state.library.use(wish.name)
                await self.state.library.load(self.state, wish.name)
        raise OverloadedError("the model was unloaded before it could answer: try again", 5.0)

    async def _stream(self, stream: Stream) -> None:
        try:
            await self._start(
                200, stream.content_type, {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **stream.headers}
            )
            try:
                async for piece in stream.pieces:
                    await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            except ClientGone:
                raise
            except (Exception, asyncio.CancelledError) as error:
                await self._send_failed(stream, self._told(error))
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            stream.close()

    async def _send_failed(self, stream: Stream, found: Problem) -> None:
        await self._send({"type": "http.response.body", "body": stream.failed(found), "more_body": True})

    async def _answer_error(self, found: Problem) -> None:
        """Tell the client, unless an answer has begun already."""
        if found.status in (429, 503):
            self.state.metrics.rejections[found.kind] += 1
        if self.status:
            return
        found = replace(found, param=self._field(found.param))
        form = self.call.error if self.call is not None else None
        status, value = (form or self.dialect.error)(found)
        body = encode(value)
        try:
            await self._start(status, "application/json", found.headers, len(body))
            await self._send({"type": "http.response.body", "body": b"" if self._head else body})
        except ClientGone:
            self.state.metrics.disconnects += 1

    def _field(self, param: str | None) -> str | None:
        """What the field at fault is called in this request's own body."""
        known = field_names(self.body) if self.body is not None else frozenset()
        if param is None or param in known:
            return param
        return next((name for name in ALIASES.get(param, ()) if name in known), param)

    @property
    def _head(self) -> bool:
        return bool(self.scope["method"] == "HEAD")

    async def _start(
        self, status: int, content_type: str, headers: Mapping[str, str], length: int | None = None
    ) -> None:
        self.status = status
        every = {"Content-Type": content_type, self.dialect.id_header: self.request_id, **headers}
        every.setdefault("X-Request-Id", self.request_id)
        if length is not None:
            every["Content-Length"] = str(length)
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in every.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _send(self, message: Message) -> None:
        """Send; a client that does not read within ``write_timeout`` is dropped."""
        transport: Any = self.scope.get(TRANSPORT)
        try:
            if transport is not None and not transport.get_write_buffer_size():
                await self._asgi_send(message)  # nothing is on its way: there is nothing to wait for
                return
            async with asyncio.timeout(self.state.options.write_timeout):
                await self._asgi_send(message)
        except TimeoutError:
            if transport is not None:
                transport.abort()
            raise ClientGone from None
        except OSError:
            raise ClientGone from None

    def _log(self) -> None:
        took = (time.perf_counter() - self.began) * 1e3
        method, path = self.scope["method"][:16], self.scope["raw_path"].decode("latin-1")[:200]
        http = {"method": method, "path": path, "route": self.route, "status": self.status, "ms": round(took, 1)}
        logger.info("%s %s %d %.1f ms id=%s", method, path, self.status, took, self.request_id, extra={"http": http})
