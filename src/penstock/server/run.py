"""Starting and stopping a server: the socket first, then the model, then requests; and a drain at the end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import uvicorn

from penstock.assemble import LoadProgress
from penstock.async_llm import ENGINE_THREAD, AsyncLLM
from penstock.errors import ConfigError
from penstock.server.app import build
from penstock.server.descriptors import Loop, backlog, with_room
from penstock.server.library import Library
from penstock.server.options import ServerOptions, split
from penstock.server.protocol import protocol
from penstock.server.state import State, make_state
from penstock.server.supervisor import Supervisor
from penstock.server.tracing import Tracing, make_tracing

logger = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE = 10.0
"""Seconds that a step gets to end before the process does without it."""


def serve(
    options: Mapping[str, Any],
    *,
    sampling: Mapping[str, Any] | None = None,
    progress: LoadProgress | None = None,
    ready: Callable[[str, State], None] | None = None,
) -> int:
    """Load the model or models that ``options`` name and serve them until told to stop; the exit status.

    ``options``: those of the server (``ServerOptions``) and of the engine, flat. ``sampling``: what requests start
    from, by the names of ``SamplingParams`` or Hugging Face's. ``ready`` is called with the URL when requests are
    taken; without it, one line is printed. Raises ``ConfigError`` when the port is taken.
    """
    mine, engine = split(options)
    mine = with_room(mine)
    listener = bind(mine.host, mine.port)
    models: dict[str, AsyncLLM] = {}
    state: State | None = None
    tracing: Tracing | None = None
    try:
        tracing = make_tracing(mine.otlp_traces_endpoint)
        wish = engine.get("model")
        if wish is not None or mine.models_dir is None:
            load(models, engine, progress)
        given = dict(wish) if isinstance(wish, Mapping) else dict.fromkeys(models, wish)
        library = Library(mine, engine, given)
        state = make_state(models, mine, sampling, library)
        state.tracing = tracing
        url = address(listener)
        tell = ready or _print_ready
        found = state
        return run_until_done(_serve(state, listener, lambda: tell(url, found)))
    finally:
        listener.close()
        if tracing is not None:
            tracing.close()
        for llm in models.values():
            llm.close(PATIENCE)
        for served in state.served.values() if state is not None else ():
            served.llm.close(PATIENCE)


def leave(status: int) -> int:
    """``status``, for the process to end with; at once if an engine's thread still hangs in native code.

    The interpreter's end would pull the ground from under it.
    """
    if any(thread.name == ENGINE_THREAD for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
    return status


def load(models: dict[str, AsyncLLM], engine: Mapping[str, Any], progress: LoadProgress | None = None) -> None:
    """Fill ``models``: the one that ``engine["model"]`` names, or each of a mapping from served name to model."""
    wish, rest = engine.get("model"), {k: v for k, v in engine.items() if k != "model"}
    if not isinstance(wish, Mapping):
        llm = AsyncLLM(wish, progress=progress, **rest)
        models[llm.model.name] = llm
        return
    for name, place in wish.items():
        models[name] = AsyncLLM(place, progress=progress, **{**rest, "served_model_name": name})


def run_until_done(work: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, but helper threads that are still busy at the end do not hold it up."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(work)


async def _serve(state: State, listener: socket.socket, ready: Callable[[], None]) -> int:
    server = make_server(state, ready)
    await server.serve(sockets=[listener])
    return 1 if server.supervisor.given_up or state.trouble() else 0


def make_server(state: State, ready: Callable[[], None] = lambda: None) -> DrainingServer:
    """``ready`` is called when connections are taken."""
    options = state.options
    config = uvicorn.Config(
        build(state),
        http=protocol(options),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=backlog(),
        timeout_keep_alive=int(options.keep_alive) or 1,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=options.max_header,
    )
    return DrainingServer(config, state, ready)


class DrainingServer(uvicorn.Server):
    """On the first signal: no new requests, running ones end by themselves or after ``drain_timeout``. Second: now."""

    def __init__(self, config: uvicorn.Config, state: State, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.state = state
        self._ready = ready
        self._drain_until = 0.0
        self.supervisor = Supervisor(state)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, without raising the signals again at the end: a drained server has ended well."""
        try:
            old = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread
            yield
            return
        try:
            yield
        finally:
            for each, handler in old.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.state.draining:
            self._drain_until = 0.0
            return
        self.state.draining = True
        self._drain_until = time.monotonic() + self.state.options.drain_timeout
        logger.info("draining: %d requests under way", len(self.state.tasks))

    async def on_tick(self, counter: int) -> bool:
        self.supervisor.look()
        if self.supervisor.given_up is not None and not self.state.draining:
            self.handle_exit(signal.SIGTERM, None)
        if self.state.draining and not self.should_exit:
            if not self.state.tasks:
                self.should_exit = True
            elif time.monotonic() >= self._drain_until:
                self.state.abort_all()
                await asyncio.sleep(0.2)  # let the last events out
                self.should_exit = True
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: a taken port is told before minutes of loading."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(f"host '{host}' is no address of this machine: check --host") from None
    family, kind, proto, _, where = found[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from None
    listener.set_inheritable(False)
    return listener


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _print_ready(url: str, state: State) -> None:
    names = ", ".join(state.served)
    sys.stdout.write(f"penstock is ready at {url} (model {names}; OpenAI API at {url}/v1)\n")
    sys.stdout.flush()


__all__ = ["ServerOptions", "address", "bind", "leave", "make_server", "run_until_done", "serve"]
