"""Where weights come from: named tensors in files, seen through memory maps.

A `WeightSource` answers names, facts and zero-copy views. It never converts. The consumer copies what it needs and
then calls `release`, which drops the file's pages from this process, so that the memory in use is the converted
weights plus the one tensor in hand, not two copies of the checkpoint.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from penstock.errors import CheckpointError

Array = npt.NDArray[Any]

LFS_PREFIX = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a file says about one tensor: nothing is read from its data."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int
    file: Path


@runtime_checkable
class WeightSource(Protocol):
    """Named tensors, read lazily. `get` gives a read-only view that stays valid until the source is closed."""

    def names(self) -> list[str]:
        """All tensor names in a stable order."""

    def info(self, name: str) -> TensorInfo:
        """The facts of ``name``; KeyError when there is no such tensor."""

    def get(self, name: str) -> Array:
        """The tensor, in the file's dtype and shape; a view of the file wherever its alignment allows."""

    def release(self, name: str) -> None:
        """Let go of the memory behind ``name``; reading it again is allowed and costs I/O."""

    def close(self) -> None:
        """Unmap the files. Views given out keep their own mapping alive until they are dropped."""


class Closing:
    """The context manager half of a source."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def damaged(path: Path, what: str) -> CheckpointError:
    """The error for a file that is not what it says it is: one line, with the file and the remedy."""
    return CheckpointError(f"{path}: {what}; the file is damaged or incomplete: download it again")


def shown(name: str, limit: int = 120) -> str:
    """A name out of a file, fit for a message: on one line, nothing a terminal obeys, not too long."""
    name = name if len(name) <= limit else name[: limit - 3] + "..."
    return name if name.isprintable() else ascii(name)[1:-1]


def some(names: Sequence[str], limit: int = 20, width: int = 120) -> str:
    """At most ``limit`` names and how many more there are."""
    text = ", ".join(shown(name, width) for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit:,} more"


class MappedFile(Closing):
    """A regular file mapped read-only. Refuses absent, empty and Git LFS pointer files with a remedy."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        with _opened(path) as descriptor:
            self.size = os.fstat(descriptor).st_size
            if self.size == 0:
                raise damaged(path, "the file is empty")
            if os.pread(descriptor, len(LFS_PREFIX), 0) == LFS_PREFIX:
                raise CheckpointError(
                    f"{path}: this is a Git LFS pointer, not the weights: run `git lfs pull` in the folder, "
                    "or download the file again"
                )
            try:
                self._map = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"{path}: cannot be memory-mapped ({error}); is it on a special filesystem?"
                ) from error

    def bytes_at(self, start: int, count: int) -> bytes:
        """A copy of ``count`` bytes; the caller has checked the range."""
        return self._live()[start : start + count]

    def array(self, start: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """A read-only view at byte ``start`` (checked by the caller); a copy only where ``start`` is misaligned."""
        count = prod(shape)
        if count == 0:
            return np.empty(shape, dtype)
        nbytes = count * dtype.itemsize
        live = self._live()
        if live.size() < self.size:  # reading on would end the process (SIGBUS)
            raise damaged(self.path, "the file became shorter while it was open")
        self._advise("MADV_WILLNEED", start, nbytes)
        view = np.frombuffer(live, dtype, count, start).reshape(shape)
        if view.flags.aligned and start % dtype.alignment == 0:
            return view
        aligned = np.empty(nbytes, np.uint8)
        aligned[:] = np.frombuffer(live, np.uint8, nbytes, start)
        aligned.flags.writeable = False
        return aligned.view(dtype).reshape(shape)

    def release(self, start: int, count: int) -> None:
        """Drop the pages of the range from this process. Whole pages, so neighbours may be faulted in again."""
        self._advise("MADV_DONTNEED", start, count)

    def _advise(self, advice: str, start: int, count: int) -> None:
        option = getattr(mmap, advice, None)
        if option is None or count <= 0 or self._map is None:
            return
        first = start - start % mmap.PAGESIZE
        with contextlib.suppress(OSError):  # advice only: a kernel that refuses changes nothing in the result
            self._map.madvise(option, first, start + count - first)

    def _live(self) -> mmap.mmap:
        if self._map is None:
            raise CheckpointError(f"{self.path}: the checkpoint was closed; open it again")
        return self._map

    def close(self) -> None:
        live, self._map = self._map, None
        if live is not None:
            with contextlib.suppress(BufferError):  # views still out there: the map goes with the last of them
                live.close()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    regular = True
    try:
        regular = stat.S_ISREG(path.stat().st_mode)  # asked first: opening a pipe would wait for its writer
        descriptor = (
            -1 if not regular else os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        )
    except FileNotFoundError as error:
        gone = "a link to a file that is gone" if path.is_symlink() else "no such file"
        raise CheckpointError(f"{path}: {gone}; download the checkpoint again") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be read ({why}); check the path and its permissions") from error
    if not regular:
        raise CheckpointError(f"{path}: not a regular file; give the checkpoint's folder or its weights file")
    try:
        yield descriptor
    finally:
        os.close(descriptor)
