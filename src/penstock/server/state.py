"""What all requests of a server share: models, options, keys, metrics, and who is being served now."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from penstock._version import __version__
from penstock.async_llm import AsyncLLM
from penstock.errors import ConfigError, OverloadedError, nearest
from penstock.sampling_defaults import from_hf
from penstock.server.auth import Keys, given_key, load_keys
from penstock.server.errors import HttpError, not_found
from penstock.server.metrics import Metrics, ModelMetrics
from penstock.server.options import ServerOptions
from penstock.types import SamplingParams

ANY_MODEL = frozenset({"", "tgi", "dummy", "default"})
"""Names that clients send who do not care which model answers."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A model on the port, with an adapter of it or none. ``created``: when it was loaded, Unix seconds."""

    name: str
    llm: AsyncLLM
    metrics: ModelMetrics
    fingerprint: str
    created: int
    aliases: frozenset[str] = frozenset()
    adapter: str | None = None


@dataclass(slots=True, eq=False)
class State:
    """``sampling``: defaults of every request. ``shared``: what a dialect keeps between requests, by its name.
    ``tasks``: requests being worked on.

    ``draining``: only those, no new ones. ``aborting``: not even those.
    """

    options: ServerOptions
    served: dict[str, Served]
    keys: Keys
    metrics: Metrics
    sampling: Mapping[str, Any] = field(default_factory=dict)
    admin_keys: Keys = field(default_factory=Keys)
    shared: dict[str, Any] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    clients: Counter[str] = field(default_factory=Counter)
    draining: bool = False
    aborting: bool = False

    def find(self, name: str | None, param: str = "model") -> Served:
        """The model of that name (or path); the first one for clients that do not care. Raises 404."""
        first = next(iter(self.served.values()))
        if name is None:
            return first
        found = self.served.get(name) or next((s for s in self.served.values() if name in s.aliases), None)
        if found is not None:
            return found
        for served in self.served.values():
            if name in served.llm.model.adapters.names():
                return replace(served, name=name, adapter=name)
        if name in ANY_MODEL:
            return first
        known = ", ".join(f"'{n}'" for n in self.served)
        shown = name if len(name) <= 128 else name[:125] + "..."
        raise not_found(
            f"no model '{shown}' here; served: {known}{nearest(shown, self.served)}", "model_not_found", param
        )

    def default_params(self, served: Served, max_tokens: int | None = None) -> SamplingParams:
        """What a request gets that says nothing: the server's own settings over the checkpoint's over ours.

        ``max_tokens`` None: as many as the context allows.
        """
        return from_hf(self.sampling, replace(served.llm.default_sampling_params(), max_tokens=max_tokens))

    def check_admin(self, headers: Mapping[str, str]) -> None:
        """Raises unless an administrator asks, and where there is none."""
        if not self.admin_keys:
            self.keys.check(headers)
            raise HttpError(403, "forbidden", "this route is shut: start the server with --admin-api-keys to open it")
        self.admin_keys.check(headers)

    def client(self, headers: Mapping[str, str], address: str) -> str:
        """Who asks: a key's digest, else an address."""
        key = given_key(headers) if self.keys else None
        return address if key is None else blake2b(key.encode(), digest_size=16).hexdigest()

    def admit(self, client: str) -> None:
        """Raises when no new request is taken from ``client``."""
        if self.draining:
            raise HttpError(503, "shutting_down", "the server is shutting down", headers={"Retry-After": "5"})
        if len(self.tasks) >= self.options.max_requests:
            raise OverloadedError(f"{len(self.tasks)} requests are under way, the most that are taken; try again")
        most = self.options.max_requests_per_client
        if most and self.clients[client] >= most:
            raise HttpError(
                429, "too_many_requests", f"you have {most} requests under way, the most that one client may have",
                headers={"Retry-After": "1"},
            )  # fmt: skip

    @contextmanager
    def serving(self, client: str) -> Iterator[None]:
        """Counts a request of ``client`` and knows its task, where a drain that runs out of patience can find it."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.clients[client] += 1
        try:
            yield
        finally:
            self.tasks.discard(task)
            self.clients[client] -= 1
            if not self.clients[client]:
                del self.clients[client]

    def trouble(self) -> str | None:
        """Why the server is not healthy; None when it is."""
        for served in self.served.values():
            if not served.llm.alive:
                return f"the engine of '{served.name}' has stopped"
            if served.llm.stalled_for > self.options.watchdog_timeout:
                return f"the engine of '{served.name}' has made no step for {served.llm.stalled_for:.0f} s"
        return None

    def abort_all(self) -> None:
        """End every request now, each with an error."""
        self.aborting = True
        for task in list(self.tasks):
            task.cancel()


def make_state(
    models: Mapping[str, AsyncLLM], options: ServerOptions, sampling: Mapping[str, Any] | None = None
) -> State:
    """``sampling``: sampling parameters by name that requests start from; Hugging Face's names are understood.

    Raises ``ConfigError`` without a model or with an empty key, ``RequestError`` for a bad sampling parameter.
    """
    if not models:
        raise ConfigError("no model to serve: name one with --model")
    metrics = Metrics()
    served = {}
    for name, llm in models.items():
        path = str(llm.model.path)
        aliases = frozenset({path, path.rstrip("/") + "/", llm.model.path.name, str(llm.model.config.model.model)})
        facts = f"{__version__}|{sorted(llm.model.resolved.items())}".encode()
        digest = "ps_" + blake2b(facts, digest_size=6).hexdigest()
        served[name] = Served(name, llm, metrics.add(name, llm), digest, int(time.time()), aliases)
    keys = load_keys(options.api_keys, options.api_key_file)
    state = State(options, served, keys, metrics, dict(sampling or {}), load_keys(options.admin_api_keys, None))
    for each in served.values():
        state.default_params(each)
    return state
