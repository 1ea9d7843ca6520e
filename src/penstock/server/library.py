"""Models that are loaded when a request first names them, and that make room for each other.

    requests ──find──► served? ──no──► NotLoaded ──► edge: library.load ──► the request again
                                                       │ room: the least recently used idle one goes

Loading happens beside the event loop: other models answer meanwhile, and one load serves all who wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.async_llm import AsyncLLM
from penstock.errors import OverloadedError, PenstockError
from penstock.memory import human_bytes
from penstock.server.errors import HttpError, not_found
from penstock.server.options import ServerOptions

if TYPE_CHECKING:
    from penstock.server.state import Served, State

logger = logging.getLogger(__name__)

WAIT_FOR_ROOM = 60.0
WEIGHTS = ("*.safetensors", "*.gguf", "*.bin")
OF_ONE_MODEL = frozenset({"model", "served_model_name", "tokenizer", "adapters", "hf_overrides", "revision"})
"""Options of the engine that do not go to the models of a folder."""
_NAME = re.compile(r"[\w][\w.:@+-]{0,127}")


class NotLoaded(Exception):  # noqa: N818
    """A request names a model that is here and not loaded."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Library:
    """``given``: models named at the start, which never make room for others. ``engine``: options of all models."""

    def __init__(
        self, options: ServerOptions, engine: Mapping[str, Any] | None = None, given: Mapping[str, Any] | None = None
    ) -> None:
        self.options = options
        self.given = dict(given or {})
        self._engine = {k: v for k, v in (engine or {}).items() if k not in OF_ONE_MODEL}
        self._loading: dict[str, asyncio.Task[Served]] = {}
        self._reserved: dict[str, int] = {}
        self._users: Counter[str] = Counter()
        self._last_use: dict[str, float] = {}
        self._mine: set[str] = set()  # loaded from the folder: these make room for each other
        self._freed = asyncio.Event()

    def places(self) -> dict[str, Any]:
        """Every model by name. The folder is read each time: models come and go in it."""
        return {**(scan(Path(self.options.models_dir).expanduser()) if self.options.models_dir else {}), **self.given}

    def loading(self, name: str) -> bool:
        return name in self._loading

    def use(self, name: str) -> None:
        """A request works with a loaded model; :meth:`leave` when it has ended."""
        self._users[name] += 1
        self._last_use[name] = time.monotonic()

    def leave(self, name: str) -> None:
        self._users[name] -= 1
        self._last_use[name] = time.monotonic()
        if self._users[name] <= 0:
            del self._users[name]
            self._freed.set()

    async def load(self, state: State, name: str) -> Served:
        """The model of that name, loaded. Raises 404, ``OverloadedError`` when no room comes, 500 for bad files."""
        if name in state.served:
            return state.served[name]
        task = self._loading.get(name)
        if task is None:
            task = asyncio.create_task(self._load(state, name))
            self._loading[name] = task
            task.add_done_callback(lambda done: self._loaded(name, done))
        return await asyncio.shield(task)  # who waits may leave; the model comes all the same

    async def unload(self, state: State, name: str) -> None:
        """Free a model that nobody uses. Raises 404 if it is not loaded, 409 if it is used."""
        if name not in state.served:
            raise not_found(f"no model '{name[:128]}' is loaded", "model_not_found", "model")
        if name not in self.places():
            raise HttpError(409, "model_in_use", f"model '{name}' was handed to this server and stays")
        if self._users[name] or state.served[name].llm.model.engine.requests:
            raise HttpError(409, "model_in_use", f"model '{name}' is answering requests: try again when it is idle")
        await self._drop(state, name)

    def _loaded(self, name: str, task: asyncio.Task[Served]) -> None:
        self._loading.pop(name, None)
        if not task.cancelled():
            task.exception()  # told to those who wait; if nobody does any more, that is no fault

    async def _load(self, state: State, name: str) -> Served:
        place = self.places().get(name)
        if place is None and name not in self.given:
            raise not_found(f"no model '{name[:128]}' here", "model_not_found", "model")
        await self._make_room(state, name, weight_of(place))
        began = time.monotonic()
        try:
            llm = await asyncio.to_thread(AsyncLLM, place, **{**self._engine, "served_model_name": name})
        except (PenstockError, OSError) as error:
            logger.error("model '%s' cannot be loaded: %s", name, error)
            raise HttpError(500, "model_failed", f"model '{name}' cannot be loaded: see the server's log") from None
        finally:
            self._reserved.pop(name, None)
            self._freed.set()
        logger.info("model '%s' loaded in %.1f s", name, time.monotonic() - began)
        if name not in self.given:
            self._mine.add(name)
        self._last_use[name] = time.monotonic()
        return state.add(name, llm)

    async def _make_room(self, state: State, name: str, need: int) -> None:
        """Reserve a place for ``name``, unloading what was used least recently; waits for requests to end."""
        memory = self.options.model_memory
        if name in self.given:
            return
        if memory and need > memory:
            raise HttpError(
                500, "model_failed", f"model '{name}' needs {human_bytes(need)}, more than --model-memory allows"
            )
        try:
            async with asyncio.timeout(WAIT_FOR_ROOM):
                while not self._fits(state, need):
                    idle = [n for n in self._mine if not self._users[n]]
                    if idle:
                        await self._drop(state, min(idle, key=lambda n: self._last_use.get(n, 0.0)))
                    else:
                        self._freed.clear()
                        await self._freed.wait()
                self._reserved[name] = need
        except TimeoutError:
            raise OverloadedError(f"no room for model '{name}': the others are all in use; try again", 5.0) from None

    def _fits(self, state: State, need: int) -> bool:
        most, memory = self.options.max_loaded_models, self.options.model_memory
        taken = sum(self._reserved.values()) + sum(footprint(state.served[n].llm) for n in self._mine)
        return (not most or len(self._mine) + len(self._reserved) < most) and (not memory or taken + need <= memory)

    async def _drop(self, state: State, name: str) -> None:
        served = state.remove(name)
        self._mine.discard(name)
        await asyncio.to_thread(served.llm.close)
        logger.info("model '%s' unloaded", name)


def scan(folder: Path) -> dict[str, Path]:
    """Models in ``folder``: sub-folders with a config.json or a GGUF file (also ORGANISATION/NAME), and GGUF files."""
    found: dict[str, Path] = {}
    for path in _children(folder):
        if _is_model(path):
            found[path.stem if path.is_file() else path.name] = path
        elif path.is_dir():
            found |= {f"{path.name}/{each.name}": each for each in _children(path) if each.is_dir() and _is_model(each)}
    return found


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name))
    except OSError as error:
        logger.warning("models folder: %s", error)
        return []


def _is_model(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".gguf"
    return (path / "config.json").is_file() or any(path.glob("*.gguf"))


def weight_of(place: Any) -> int:
    """Bytes of the files with weights; 0 for what is not on this machine."""
    path = Path(place) if isinstance(place, str | Path) else None
    if path is None or not path.exists():
        return 0
    if path.is_file():
        return path.stat().st_size
    return next((n for p in WEIGHTS if (n := sum(each.stat().st_size for each in path.glob(p)))), 0)


def footprint(llm: AsyncLLM) -> int:
    """Bytes that a loaded model takes now: weights, work space, and what its KV cache has filled so far."""
    memory = llm.model.executor.memory
    return memory.weights + memory.workspace + memory.kv_used
