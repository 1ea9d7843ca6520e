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
from penstock.server.current import CURRENT
from penstock.server.errors import HttpError, not_found
from penstock.server.library import Library, NotLoaded
from penstock.server.metrics import Metrics, ModelMetrics
from penstock.server.options import ServerOptions
from penstock.server.tracing import Tracing
from penstock.types import SamplingParams

ANY_MODEL = frozenset({"", "tgi", "dummy", "default"})
"""Names that clients send who do not care which model answers."""


def any_model(name: str) -> bool:
    """Whether ``name`` leaves it to the server; Hugging Face's JavaScript client sends the URL that it calls."""
    return name in ANY_MODEL or name.startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A model on the port, with an adapter of it or none. ``created``: when it was loaded, Unix seconds.

    ``aliases``: what else it answers to; ``names``: those of them that are told.
    """

    name: str
    llm: AsyncLLM
    metrics: ModelMetrics
    fingerprint: str
    created: int
    aliases: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    adapter: str | None = None


@dataclass(slots=True, eq=False)
class State:
    """``sampling``: defaults of every request. ``shared``: what a dialect keeps between requests, by its name.
    ``tasks``: requests being worked on. ``library``: where models come from that are not loaded. ``tracing``: where
    spans go; None: none are made.

    ``restarting``: models that have crashed and are loaded again. ``draining``: only requests
    under way, no new ones. ``aborting``: not even those.
    """

    options: ServerOptions
    served: dict[str, Served]
    keys: Keys
    metrics: Metrics
    library: Library
    sampling: Mapping[str, Any] = field(default_factory=dict)
    admin_keys: Keys = field(default_factory=Keys)
    shared: dict[str, Any] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    clients: Counter[str] = field(default_factory=Counter)
    tracing: Tracing | None = None
    restarting: dict[str, Served] = field(default_factory=dict)
    draining: bool = False
    aborting: bool = False

    def find(self, name: str | None, param: str = "model") -> Served:
        """The model of that name (or path); the first one for clients that do not care.

        It stays loaded as long as the request is under way that asks. Raises 404, or ``NotLoaded`` for the edge to
        load it and ask again.
        """
        found = self._loaded(name)
        if found is None:
            self._check_restarting(name)
            places = self.library.places()
            if name in places:
                raise NotLoaded(name)
            if places and not self.served and (name is None or any_model(name)):
                raise NotLoaded(next(iter({**self.library.given, **places})))
            names = list(dict.fromkeys([*self.served, *places]))
            known = ", ".join(f"'{n}'" for n in names) or "none"
            shown = name or ""
            shown = shown if len(shown) <= 128 else shown[:125] + "..."
            hint = nearest(shown, names)
            raise not_found(f"no model '{shown}' here; served: {known}{hint}", "model_not_found", param)
        current = CURRENT.get()
        held = next((n for n, s in self.served.items() if s.llm is found.llm), "")
        if current is not None and held not in current.using:
            current.using.append(held)
            self.library.use(held)
        return found

    def _check_restarting(self, name: str | None) -> None:
        for known, served in self.restarting.items():
            if name is None or name == known or name in served.aliases or any_model(name):
                told = f"the engine of '{known}' has stopped and is started again: try again"
                raise HttpError(503, "restarting", told, headers={"Retry-After": "5"})

    def _loaded(self, name: str | None) -> Served | None:
        first = next(iter(self.served.values()), None)
        if name is None:
            return first
        found = self.served.get(name) or next((s for s in self.served.values() if name in s.aliases), None)
        if found is not None:
            return found
        for served in self.served.values():
            if name in served.llm.model.adapters.names():
                return replace(served, name=name, adapter=name)
        return first if any_model(name) else None

    def add(self, name: str, llm: AsyncLLM) -> Served:
        """Serve a loaded model under ``name``. Raises ``RequestError`` if the server's sampling does not suit it."""
        path = str(llm.model.path)
        names = self.options.model_aliases if name in self.library.given or not self.served else ()
        aliases = frozenset(
            {*names, path, path.rstrip("/") + "/", llm.model.path.name, str(llm.model.config.model.model)}
        )
        facts = f"{__version__}|{sorted(llm.model.resolved.items())}".encode()
        digest = "ps_" + blake2b(facts, digest_size=6).hexdigest()
        made = Served(name, llm, self.metrics.add(name, llm), digest, int(time.time()), aliases, names)
        self.default_params(made)
        llm.queue_timeout = self.options.queue_timeout
        self.served[name] = made
        return made

    def restore(self, before: Served, llm: AsyncLLM) -> Served:
        """Serve ``llm`` in the place of a model that was removed."""
        self.metrics.models[before.name] = (llm, before.metrics)
        made = replace(before, llm=llm, created=int(time.time()))
        llm.queue_timeout = self.options.queue_timeout
        self.served[before.name] = made
        return made

    def remove(self, name: str) -> Served:
        """Serve it no more; the caller closes it."""
        self.metrics.models.pop(name, None)
        self.shared.get("pooling", {}).pop(name, None)
        return self.served.pop(name)

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
        for name in self.restarting:
            return f"the engine of '{name}' has stopped"
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
    models: Mapping[str, AsyncLLM],
    options: ServerOptions,
    sampling: Mapping[str, Any] | None = None,
    library: Library | None = None,
) -> State:
    """``sampling``: sampling parameters by name that requests start from; Hugging Face's names are understood.

    ``library``: where further models come from. Raises ``ConfigError`` without a model or with an empty key,
    ``RequestError`` for a bad sampling parameter.
    """
    library = library or Library(options)
    if options.model_aliases and max(len(models), len(library.given)) != 1:
        raise ConfigError("several names are for one model: give several models as --model NAME=MODEL, without aliases")
    if not models and not library.places():
        raise ConfigError("no model to serve: name one with --model, or a folder of models with --models-dir")
    keys, admins = load_keys(options.api_keys, options.api_key_file), load_keys(options.admin_api_keys, None)
    state = State(options, {}, keys, Metrics(), library, dict(sampling or {}), admins)
    from_hf(state.sampling, SamplingParams())
    for name, llm in models.items():
        state.add(name, llm)
    return state
