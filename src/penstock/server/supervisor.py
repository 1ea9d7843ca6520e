"""An engine that has stopped is loaded again, a little later each time; when that does not help, the server ends.

It also ends when a step hangs: a thread cannot be ended from outside, and a second engine may not fit beside it.
A step that fails fails its requests only (``Engine.step``). This is for what should not happen: the engine's own thread
has ended. Its requests have been told (503); new ones are told to come again until the model is back.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import sys
import time

from penstock.async_llm import AsyncLLM
from penstock.server.state import Served, State

logger = logging.getLogger(__name__)

PAUSES = (0.0, 2.0, 10.0)
"""Seconds before each new start; one more crash within ``WITHIN`` seconds ends the server."""
WITHIN = 600.0
LOOK_SECONDS = 1.0
"""What one look counts at most."""


class Supervisor:
    """``given_up``: why the server is to end, once it is."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.given_up: str | None = None
        self._crashes: dict[str, list[float]] = {}
        self._stuck: dict[str, tuple[float, float]] = {}
        self._looked = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    def look(self) -> None:
        """See to engines that have stopped or hang; called again and again on the event loop."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, LOOK_SECONDS), now
        for served in list(self.state.served.values()):
            if served.llm.failure is not None and not self.state.draining and self.given_up is None:
                self._crashed(served)
            elif self._hangs(served, passed) and not self.state.draining and self.given_up is None:
                told = f"a step of '{served.name}' has not ended for {self.state.options.hang_timeout:g} s"
                if sys.__stderr__ is not None:
                    faulthandler.dump_traceback(sys.__stderr__)
                served.llm.abandon(f"{told}: the server ends")
                self._give_up(told)

    def _hangs(self, served: Served, passed: float) -> bool:
        """Whether one step has taken longer than is allowed, by what this loop has seen of it.

        A process that was stopped and goes on has not hung meanwhile.
        """
        llm, limit = served.llm, self.state.options.hang_timeout
        mark, seconds = self._stuck.get(served.name, (0.0, 0.0))
        seconds = seconds + passed if llm.model.engine.has_work and llm.last_progress == mark else 0.0
        self._stuck[served.name] = (llm.last_progress, seconds)
        return 0 < limit < seconds

    def _crashed(self, served: Served) -> None:
        now, name = time.monotonic(), served.name
        crashes = [when for when in self._crashes.get(name, []) if now - when < WITHIN]
        self._crashes[name] = [*crashes, now]
        self.state.restarting[name] = served
        self.state.remove(name)
        if len(crashes) >= len(PAUSES):
            self._give_up(f"the engine of '{name}' has stopped {len(crashes) + 1} times in {WITHIN / 60:.0f} minutes")
            return
        logger.error("the engine of '%s' has stopped (%s); it is loaded again", name, served.llm.failure)
        task = asyncio.create_task(self._again(served, PAUSES[len(crashes)]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _again(self, served: Served, pause: float) -> None:
        name = served.name
        await asyncio.sleep(pause)
        try:
            llm = await asyncio.to_thread(_anew, served.llm)
            self.state.restore(served, llm)
        except Exception as error:
            self._give_up(f"the engine of '{name}' has stopped and cannot be loaded again: {error}")
            return
        self.state.metrics.restarts[name] += 1
        del self.state.restarting[name]
        logger.warning("the engine of '%s' is back", name)

    def _give_up(self, reason: str) -> None:
        logger.critical("%s: the server ends", reason)
        self.given_up = reason


def _anew(old: AsyncLLM) -> AsyncLLM:
    """The model of ``old`` loaded again, with the adapters it had. ``old`` is closed."""
    adapters = [old.model.adapters.info(name) for name in old.model.adapters.names()]
    old.close()
    made = AsyncLLM(config=old.model.config)
    there = made.model.adapters.names()
    for info in adapters:
        if info.name not in there:
            made.model.adapters.load(info.name, info.path)
    return made
