"""Which files of a folder are its weights: readers are tried in order, the first that finds its files opens them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.checkpoints.safetensors import SafetensorsFile
from penstock.checkpoints.sharded import SHARD_NAME, OneFile, open_index, open_numbered
from penstock.checkpoints.source import WeightSource, some
from penstock.errors import CheckpointError, UnsupportedError

NOT_THE_MODEL = ("adapter_model", "consolidated", "optimizer", "training_args", "prefix_encoder")
"""Starts of file names that lie beside a model's weights and are not they."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A way to store weights.

    ``find`` gives a folder's files of that kind, most telling first; ``open`` reads them. ``endings`` are those of a
    file that a user may name by itself. ``config`` reads the configuration out of formats that carry it (GGUF), from
    what ``open`` gave.
    """

    name: str
    endings: tuple[str, ...]
    find: Callable[[Path], list[Path]]
    open: Callable[[list[Path]], WeightSource]
    config: Callable[[Any, Path], dict[str, Any]] | None = None


def _files(folder: Path, *patterns: str) -> list[Path]:
    found = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
    return [path for path in found if not path.name.startswith(NOT_THE_MODEL) and not path.is_dir()]


def _find_safetensors(folder: Path) -> list[Path]:
    """The usual single file, else an index, else numbered shards, else the only ``.safetensors`` there is."""
    if _there(folder / "model.safetensors"):
        return [folder / "model.safetensors"]
    usual = folder / "model.safetensors.index.json"
    return [usual] if _there(usual) else _files(folder, "*.safetensors.index.json") or _files(folder, "*.safetensors")


def _there(path: Path) -> bool:
    return path.exists() or path.is_symlink()  # a dangling link is told as such when it is opened


def _find_torch(folder: Path) -> list[Path]:
    """The usual single file, else an index, else numbered shards."""
    if _there(folder / "pytorch_model.bin"):
        return [folder / "pytorch_model.bin"]
    return _files(folder, "pytorch_model*.bin.index.json") or _files(folder, "pytorch_model*.bin")


def open_files(files: list[Path], open_one: OneFile) -> WeightSource:
    """One file, one index, or numbered shards."""
    first = files[0]
    if first.name.endswith(".index.json"):
        if len(files) > 1:
            raise _ambiguous(files)
        return open_index(first, open_one)
    match = SHARD_NAME.fullmatch(first.name)
    if match is not None and all((m := SHARD_NAME.fullmatch(f.name)) and m[1] == match[1] for f in files):
        return open_numbered(files, open_one)
    if len(files) > 1:
        raise _ambiguous(files)
    return open_one(first)


def _ambiguous(files: list[Path]) -> CheckpointError:
    return CheckpointError(
        f"{files[0].parent}: several files could be the weights: {some([file.name for file in files])}; "
        "give the path of the one you mean"
    )


def _safetensors(files: list[Path]) -> WeightSource:
    return open_files(files, SafetensorsFile)


def _torch(files: list[Path]) -> WeightSource:
    from penstock.checkpoints.torch_bin import TorchFile

    return open_files(files, TorchFile)


def _find_gguf(folder: Path) -> list[Path]:
    if next(folder.glob("*.gguf"), None) is None:
        return []
    from penstock.checkpoints.gguf import find_gguf

    return find_gguf(folder)


def _gguf(files: list[Path]) -> WeightSource:
    from penstock.checkpoints.gguf import open_gguf

    return open_gguf(files)


def _gguf_config(source: Any, file: Path) -> dict[str, Any]:
    from penstock.checkpoints.gguf import gguf_config

    return gguf_config(source, file)


READERS: tuple[Reader, ...] = (
    Reader("safetensors", (".safetensors", ".safetensors.index.json"), _find_safetensors, _safetensors),
    Reader("torch", (".bin", ".pth", ".pt", ".bin.index.json"), _find_torch, _torch),
    Reader("gguf", (".gguf",), _find_gguf, _gguf, _gguf_config),
)


def open_weights(folder: Path) -> tuple[WeightSource, list[Path]]:
    """The weights in ``folder`` and the files that say so. Raises `CheckpointError` when there are none."""
    for reader in READERS:
        files = reader.find(folder)
        if files:
            return reader.open(files), files
    raise CheckpointError(
        f"{folder}: no weights here (model.safetensors or model.safetensors.index.json); "
        "download them, or give the folder that holds them"
    )


def open_file(file: Path) -> WeightSource:
    """The weights in one file that the user named."""
    return _reader_of(file).open([file])


def open_with_config(path: Path) -> tuple[dict[str, Any], WeightSource, list[Path]] | None:
    """The configuration inside the weights of a folder or file, with them; None for formats that carry none."""
    found = [(_reader_of(path), [path])] if path.is_file() else ((reader, reader.find(path)) for reader in READERS)
    for reader, files in found:
        if files and reader.config is None:
            return None
        if files and reader.config is not None:
            source = reader.open(files)
            try:
                return reader.config(source, files[0]), source, files
            except BaseException:
                source.close()
                raise
    return None


def is_gguf(file: Path) -> bool:
    """Whether ``file`` is, or claims to be, a GGUF file: by its name, or as Ollama keeps them, by its first bytes."""
    if file.name.lower().endswith(".gguf"):
        return True
    try:
        with file.open("rb") as opened:
            return opened.read(4) == b"GGUF"
    except OSError:
        return False


def _reader_of(file: Path) -> Reader:
    for reader in READERS:
        if file.name.lower().endswith(reader.endings) or (reader.name == "gguf" and is_gguf(file)):
            return reader
    raise UnsupportedError(
        f"{file}: not a weights file that penstock knows; give a folder, or a file that ends "
        f"in {', '.join(ending for reader in READERS for ending in reader.endings)}"
    )
