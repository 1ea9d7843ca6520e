"""A checkpoint in several files, with or without its index (``*.safetensors.index.json``, ``*.bin.index.json``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from penstock.checkpoints.jsonfile import MAX_INDEX, read_json
from penstock.checkpoints.safetensors import SafetensorsFile
from penstock.checkpoints.source import Array, Closing, TensorInfo, WeightSource, shown, some
from penstock.errors import CheckpointError

MAX_SHARDS = 10_000
SHARD_NAME = re.compile(r"(.*)-(\d{1,6})-of-(\d{1,6})\.(safetensors|bin)")

OneFile = Callable[[Path], WeightSource]


class ShardedFiles(Closing):
    """Several files as one `WeightSource`. Every shard's header is checked at once, no data is read."""

    def __init__(self, paths: Sequence[Path], open_one: OneFile = SafetensorsFile) -> None:
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise CheckpointError(
                f"{paths[0].parent}: {len(missing)} of {len(paths)} shards missing: "
                f"{some([path.name for path in missing])}; download them"
            )
        self.paths = tuple(paths)
        self._shards: list[WeightSource] = []
        self._home: dict[str, WeightSource] = {}
        try:
            for path in paths:
                shard = open_one(path)
                self._shards.append(shard)
                twice = [name for name in shard.names() if name in self._home]
                if twice:
                    other = self._home[twice[0]].info(twice[0]).file.name
                    raise CheckpointError(
                        f"{path}: {len(twice)} tensors are also in {other}: {some(twice)}; "
                        "keep the files of one checkpoint only, or download it again"
                    )
                self._home.update(dict.fromkeys(shard.names(), shard))
        except BaseException:
            self.close()
            raise

    def names(self) -> list[str]:
        return list(self._home)

    def info(self, name: str) -> TensorInfo:
        return self._home[name].info(name)

    def get(self, name: str) -> Array:
        return self._home[name].get(name)

    def release(self, name: str) -> None:
        self._home[name].release(name)

    def close(self) -> None:
        for shard in self._shards:
            shard.close()


def open_index(index: Path, open_one: OneFile = SafetensorsFile) -> ShardedFiles:
    """The shards that ``index`` names. Every tensor it lists must be in the shard that it says."""
    mapping = read_json(index, MAX_INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(file, str) for file in mapping.values()):
        raise CheckpointError(f"{index}: has no weight_map of tensor names to files; download it again")
    files = sorted(set(mapping.values()))
    if len(files) > MAX_SHARDS:
        raise CheckpointError(f"{index}: names {len(files):,} files, above the limit of {MAX_SHARDS:,}")
    for file in files:
        if not _inside(file):
            raise CheckpointError(
                f"{index}: names the file '{shown(file)}', which is not a plain file name beside it; "
                "do not use this checkpoint unless you trust its origin"
            )
    source = ShardedFiles([index.parent / file for file in files], open_one)
    held = set(source.names())
    astray = sorted(name for name, file in mapping.items() if name not in held or source.info(name).file.name != file)
    if astray:
        source.close()
        raise CheckpointError(
            f"{index}: {len(astray)} tensors are not in the shard that the index names: {some(astray)}; "
            "index and shards are from different downloads: download both again"
        )
    return source


def open_numbered(paths: Sequence[Path], open_one: OneFile = SafetensorsFile) -> ShardedFiles:
    """Files called ``x-00001-of-00003.safetensors`` without an index; all numbers must be there."""
    match = SHARD_NAME.fullmatch(paths[0].name)
    if match is None:
        raise CheckpointError(f"{paths[0]}: not a numbered shard")
    stem, digits, count = match[1], len(match[2]), int(match[3])
    if not 0 < count <= MAX_SHARDS:
        raise CheckpointError(f"{paths[0]}: its name says {count:,} shards; the limit is {MAX_SHARDS:,}")
    last = f"{match[3]}.{match[4]}"
    return ShardedFiles([paths[0].parent / f"{stem}-{n:0{digits}}-of-{last}" for n in range(1, count + 1)], open_one)


def _inside(file: str) -> bool:
    """A bare file name: no folder, drive or parent, nothing that a shell or a terminal would trip over."""
    return file not in ("", ".", "..") and len(file) <= 255 and file.isprintable() and not set(file) & set('\\/:*?"<>|')
