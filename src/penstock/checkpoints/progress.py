"""Progress as two numbers, for whoever draws it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all); the second is 0 while it is not known."""


class Counts:
    """Bytes done of all files together."""

    def __init__(self, sizes: dict[str, int], progress: Progress | None) -> None:
        self.sizes, self.progress = sizes, progress
        self.done: dict[str, float] = dict.fromkeys(sizes, 0)
        self.lock = threading.RLock()
        self.stopped = False

    def stop(self) -> None:
        """End what still counts: its next piece raises."""
        self.stopped = True

    def add(self, file: str, count: float) -> None:
        with self.lock:
            self.done[file] = min(self.done[file] + count, self.sizes[file] or math.inf)
            self._tell()

    def finish(self, file: str) -> None:
        with self.lock:
            self.done[file] = self.sizes[file]
            self._tell()

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(int(sum(self.done.values())), sum(self.sizes.values()))

    def bar(self, file: str) -> type[Any]:
        """A stand-in for tqdm that counts and prints nothing."""
        counts = self

        class Bar:
            disable = True

            def __init__(self, *_: object, **options: Any) -> None:
                self.total: float | None = options.get("total")
                self.n: float = options.get("initial") or 0
                self.counted = options.get("unit") == "B"

            def update(self, n: float | None = 1) -> None:
                if counts.stopped:
                    raise CancelledError("the download was stopped")
                self.n += n or 0
                if self.counted:
                    counts.add(file, n or 0)

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None: ...

            def __getattr__(self, _: str) -> Callable[..., None]:
                return lambda *args, **options: None

            @classmethod
            def get_lock(cls) -> Any:
                return counts.lock

        return Bar
