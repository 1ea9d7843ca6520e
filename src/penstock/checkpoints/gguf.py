"""GGUF files as a checkpoint: tensors as views of the file, metadata, and the configuration that they amount to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.checkpoints.gguf_header import Header, Info, Strings, read_header
from penstock.checkpoints.source import Array, Closing, MappedFile, TensorInfo, shown, some
from penstock.errors import CheckpointError
from penstock.models import gguf as facts

SPLIT_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
MAX_SPLITS = 1_000


class GgufFile(Closing):
    """One ``.gguf`` file as a `WeightSource`. Block tensors are u8 [..., bytes of a row]; `block_type` says which."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        try:
            self._header: Header = read_header(self._file)
        except BaseException:
            self._file.close()
            raise

    @property
    def metadata(self) -> dict[str, Any]:
        """Values by key: numbers, booleans, text, numpy arrays and `Strings`."""
        return self._header.metadata

    def names(self) -> list[str]:
        return list(self._header.tensors)

    def info(self, name: str) -> TensorInfo:
        info = self._header.tensors[name]
        return TensorInfo(name, _dtype(info), _stored(info), info.nbytes, self.path)

    def shape(self, name: str) -> tuple[int, ...]:
        """The logical shape, outermost first."""
        return self._header.tensors[name].shape

    def block_type(self, name: str) -> str:
        return self._header.tensors[name].type.name

    def get(self, name: str) -> Array:
        info = self._header.tensors[name]
        return self._file.array(info.offset, _dtype(info), _stored(info))

    def release(self, name: str) -> None:
        info = self._header.tensors[name]
        self._file.release(info.offset, info.nbytes)

    def close(self) -> None:
        self._file.close()


class GgufFiles(Closing):
    """The parts of a split model (``x-00001-of-00003.gguf`` …) as one source; the first has the metadata."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._parts: list[GgufFile] = []
        self._home: dict[str, GgufFile] = {}
        try:
            for path in paths:
                part = GgufFile(path)
                self._parts.append(part)
                twice = [name for name in part.names() if name in self._home]
                if twice:
                    raise CheckpointError(f"{path}: has tensors that an earlier part has too: {some(twice)}")
                self._home.update(dict.fromkeys(part.names(), part))
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        first = self._parts[0]
        for number, part in enumerate(self._parts):
            count, place = part.metadata.get("split.count"), part.metadata.get("split.no")
            if count not in (None, len(self._parts)) or place not in (None, number):
                raise CheckpointError(
                    f"{part.path}: says it is part {place} of {count}, its name that it is {number} of "
                    f"{len(self._parts)} (counted from 0); the parts are of different downloads"
                )
        total = first.metadata.get("split.tensors.count")
        if total not in (None, len(self._home)):
            raise CheckpointError(
                f"{first.path}: the parts should have {total} tensors and have {len(self._home)}; download them again"
            )

    @property
    def metadata(self) -> dict[str, Any]:
        return self._parts[0].metadata

    def names(self) -> list[str]:
        return list(self._home)

    def info(self, name: str) -> TensorInfo:
        return self._home[name].info(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._home[name].shape(name)

    def block_type(self, name: str) -> str:
        return self._home[name].block_type(name)

    def get(self, name: str) -> Array:
        return self._home[name].get(name)

    def release(self, name: str) -> None:
        self._home[name].release(name)

    def close(self) -> None:
        for part in self._parts:
            part.close()


def _dtype(info: Info) -> np.dtype[Any]:
    return np.dtype(np.uint8) if info.type.dtype is None else info.type.dtype


def _stored(info: Info) -> tuple[int, ...]:
    if info.type.dtype is not None:
        return info.shape
    return (*info.shape[:-1], info.shape[-1] // info.type.elements * info.type.nbytes)


def find_gguf(folder: Path) -> list[Path]:
    """A folder's GGUF models; of a split one its first part only, and no vision projectors."""
    found = [path for path in sorted(folder.glob("*.gguf")) if not path.name.startswith("mmproj") and path.is_file()]
    return [p for p in found if (m := SPLIT_NAME.fullmatch(p.name)) is None or m[2] == "00001"] or found


def open_gguf(files: list[Path]) -> GgufFile | GgufFiles:
    """One file, or the parts of a split model of which any is given."""
    if len(files) > 1:
        raise CheckpointError(
            f"{files[0].parent}: several models in one folder: {some([file.name for file in files])}; "
            "give the path of the one you mean"
        )
    match = SPLIT_NAME.fullmatch(files[0].name)
    if match is None:
        return GgufFile(files[0])
    count = int(match[3])
    if not 0 < count <= MAX_SPLITS:
        raise CheckpointError(f"{files[0]}: its name says {count:,} parts; the limit is {MAX_SPLITS:,}")
    paths = [files[0].parent / f"{match[1]}-{n:05}-of-{match[3]}.gguf" for n in range(1, count + 1)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise CheckpointError(
            f"{files[0].parent}: {len(missing)} of {count} parts missing: {some(missing)}; download them"
        )
    return GgufFiles(paths)


def gguf_config(source: GgufFile | GgufFiles, file: Path) -> dict[str, Any]:
    """The configuration that the metadata of a model amounts to, in the form of its family's ``config.json``."""
    shapes = {name: source.shape(name) for name in source.names()}
    try:
        return facts.config(source.metadata, shapes, lambda name: _vector(source, name))
    except CheckpointError as error:
        raise type(error)(f"{file}: {error}") from error


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a model (of a split one, of its first part): vocabulary and chat template are in it."""
    with open_gguf([path]) as source:
        return source.metadata


def _vector(source: GgufFile | GgufFiles, name: str) -> npt.NDArray[np.float32]:
    if source.block_type(name) != "f32" or len(source.shape(name)) != 1:
        raise CheckpointError(f"tensor '{shown(name)}' must be a vector of F32")
    return np.array(source.get(name), np.float32)


__all__ = ["GgufFile", "GgufFiles", "Strings", "find_gguf", "gguf_config", "open_gguf", "read_metadata"]
