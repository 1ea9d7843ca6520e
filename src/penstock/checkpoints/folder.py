"""A checkpoint: a folder with ``config.json`` and weights, opened from a path or from a model's name on a hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock.checkpoints import hub
from penstock.checkpoints.jsonfile import read_json
from penstock.checkpoints.progress import Progress
from penstock.checkpoints.readers import open_file, open_weights, open_with_config
from penstock.checkpoints.source import WeightSource
from penstock.errors import CheckpointError, nearest


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint. ``files`` are its weights' files, empty (and ``weights`` None) when opened without them.

    ``path`` is the folder: tokenizer files and chat templates are looked for there. ``generation_config`` is ``{}``
    when there is none.
    """

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any] = field(default_factory=dict)
    weights: WeightSource | None = None
    files: tuple[Path, ...] = ()

    @staticmethod
    def open(
        name: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        *,
        weights: bool = True,
        progress: Progress | None = None,
    ) -> Checkpoint:
        """Open the folder, file or hub model ``name``.

        ``revision`` (branch, tag or commit) and ``cache_dir`` serve downloads. ``weights=False`` reads the
        configuration only. Raises `CheckpointError` for what is missing or damaged, `UnsupportedError` for a format
        without a reader, `ConfigError` or `CheckpointError` for a name that leads nowhere.
        """
        path = locate(name, revision, cache_dir, progress)
        folder = path if path.is_dir() else path.parent
        inside = open_with_config(path)  # a config.json beside such weights may be of another form
        config = _config(folder, path) if inside is None else inside[0]
        generation = folder / "generation_config.json"
        generation_config = read_json(generation) if generation.exists() else {}
        if not weights:
            if inside is not None:
                inside[1].close()
            return Checkpoint(folder, config, generation_config)
        if inside is not None:
            _, source, files = inside
        else:
            source, files = open_weights(folder) if path.is_dir() else (open_file(path), [path])
        return Checkpoint(folder, config, generation_config, source, tuple(files))

    def close(self) -> None:
        if self.weights is not None:
            self.weights.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def locate(name: str | Path, revision: str | None, cache_dir: str | Path | None, progress: Progress | None) -> Path:
    """The folder or file that ``name`` means: what is on disk comes first, then a hub."""
    if not str(name) or "\0" in str(name):
        raise CheckpointError("the model's name is empty or not a path; give a folder, a file or a name like org/model")
    path = Path(name).expanduser()
    try:
        exists = path.exists()
    except OSError as error:
        raise CheckpointError(f"{str(name)[:200]}: cannot be read ({error.strerror}); check the path") from error
    if exists:
        return _snapshot(path, revision) if path.is_dir() else path
    if isinstance(name, str) and hub.looks_like_name(name):
        return hub.download(name, revision, cache_dir, progress)
    raise CheckpointError(f"{path}: no such folder or file{_neighbour(path)}")


def _snapshot(path: Path, revision: str | None) -> Path:
    """The snapshot inside a hub cache's ``models--org--name`` folder; any other folder is itself."""
    snapshots = path / "snapshots"
    if not path.name.startswith("models--") or not snapshots.is_dir() or (path / "config.json").exists():
        return path
    ref = path / "refs" / (revision or "main")
    wanted = ref.read_text().strip() if ref.is_file() and ref.stat().st_size < 200 else revision or ""
    found = {entry.name: entry for entry in snapshots.iterdir() if entry.is_dir()}
    if wanted in found:
        return found[wanted]
    if revision is None and len(found) == 1:
        return next(iter(found.values()))
    raise CheckpointError(f"{path}: no snapshot of {wanted or 'main'}; give one of {snapshots}/{{{','.join(found)}}}")


def _neighbour(path: Path) -> str:
    parent = path.parent
    try:
        entries = [entry.name for _, entry in zip(range(10_000), parent.iterdir())]
    except OSError:
        return f"; {parent} is no folder either, check the path" if not parent.is_dir() else ""
    return nearest(path.name, entries) or "; check the path"


def _config(folder: Path, given: Path) -> dict[str, Any]:
    config = folder / "config.json"
    if config.exists() or config.is_symlink():
        return _with_old_quantisation(folder, read_json(config))
    if given.is_file():
        raise CheckpointError(f"{given}: there is no config.json beside this file; put the model's config.json there")
    inner = [sub.parent.name for _, sub in zip(range(3), folder.glob("*/config.json"))]
    if inner:
        raise CheckpointError(f"{folder}: no config.json here, but there is one in {inner[0]}/: give that folder")
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder}: this is an adapter (LoRA or prefix), not a model: give its base model's folder"
        )
    raise CheckpointError(f"{folder}: no config.json, so this is no model folder; download the whole model")


def _with_old_quantisation(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The first AutoGPTQ and AutoAWQ, and ModelOpt, say in files of their own how weights are stored."""
    own = ("quantize_config.json", "gptq"), ("quant_config.json", "awq"), ("hf_quant_config.json", "modelopt")
    for name, method in own:
        if "quantization_config" not in config and (folder / name).is_file():
            return {**config, "quantization_config": {"quant_method": method, **read_json(folder / name)}}
    return config
