"""Downloads from a hub: huggingface_hub by default, modelscope when the environment asks for it.

Environment: ``HF_ENDPOINT`` (a mirror), ``HF_HUB_OFFLINE`` (what is in the cache only), ``HF_TOKEN``, ``HF_HOME`` as
huggingface_hub has them; ``PENSTOCK_USE_MODELSCOPE`` or ``VLLM_USE_MODELSCOPE`` for modelscope.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.errors import CheckpointError, UnsupportedError, missing

Progress = Callable[[int, int], None]

TIMEOUT = 10.0  # seconds without an answer; a transfer that stalls as long is resumed by the library, then an error
SMALL_FILES = ("*.json", "*.model", "*.tiktoken", "*.txt", "*.jinja")
WEIGHT_FILES = ("*.safetensors",)
OTHER_FORMATS = (".gguf", ".bin", ".pth", ".onnx", ".msgpack", ".h5")
LEFT_OUT = ("*/*", "consolidated*", "optimizer*", "training_args*", "adapter_model*")
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
TRUE = {"1", "true", "yes", "on"}


def looks_like_name(name: str) -> bool:
    """Whether ``name`` can be a model's name on a hub: ``org/model`` or ``model``, and no path or file."""
    if not NAME.fullmatch(name) or "--" in name or ".." in name:
        return False
    return not name.endswith((".safetensors", ".gguf", ".bin", ".json", ".git"))


def download(name: str, revision: str | None, cache_dir: str | Path | None, progress: Progress | None = None) -> Path:
    """The local folder of the model ``name``, downloaded where the cache lacks it.

    Raises `MissingDependencyError` for an absent library, `UnsupportedError` when the hub has the model in no format
    that penstock reads, `CheckpointError` with the remedy for anything that goes wrong on the way.
    """
    if _flag("PENSTOCK_USE_MODELSCOPE") or _flag("VLLM_USE_MODELSCOPE"):
        return _modelscope(name, revision, cache_dir)
    return _huggingface(name, revision, cache_dir, progress)


def _flag(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in TRUE


def _huggingface(name: str, revision: str | None, cache_dir: str | Path | None, progress: Progress | None) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing("huggingface_hub") from error
    endpoint = os.environ.get("HF_ENDPOINT") or None
    offline = _flag("HF_HUB_OFFLINE")
    try:
        if not offline:
            _check_format(huggingface_hub.HfApi(endpoint=endpoint), name, revision)
        folder = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            endpoint=endpoint,
            etag_timeout=TIMEOUT,
            local_files_only=offline,
            allow_patterns=[*SMALL_FILES, *WEIGHT_FILES],
            ignore_patterns=list(LEFT_OUT),
            tqdm_class=_bar(progress),
        )
    except CheckpointError:
        raise
    except Exception as error:  # the library's own kinds, its HTTP client's, the operating system's
        raise _told(name, revision, endpoint, offline, error) from error
    return Path(folder)


def _check_format(api: Any, name: str, revision: str | None) -> None:
    """Refuse before gigabytes are fetched. A hub that does not answer is left to the download, which has a cache."""
    try:
        files = [entry.rfilename for entry in api.model_info(name, revision=revision, timeout=TIMEOUT).siblings or []]
    except Exception as error:
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403, 404):
            raise
        return
    if not files or any(file.endswith(".safetensors") and "/" not in file for file in files):
        return
    held = sorted({kind for kind in OTHER_FORMATS if any(file.endswith(kind) for file in files)})
    raise UnsupportedError(
        f"{name}: the hub has no safetensors of this model{', only ' + ', '.join(held) if held else ''}; "
        "choose a repository or revision with .safetensors files"
    )


def _told(name: str, revision: str | None, endpoint: str | None, offline: bool, error: Exception) -> CheckpointError:
    """One line that tells a wrong name, a closed door, the network and the disk apart."""
    kind = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    where = endpoint or "the hub"
    what = f"{name}@{revision}" if revision else name
    if offline:
        return CheckpointError(f"{what}: not in the local cache, and HF_HUB_OFFLINE is set: unset it to download")
    if kind == "RevisionNotFoundError":
        return CheckpointError(f"{what}: {where} has the model but no such revision; check the branch, tag or commit")
    if kind == "GatedRepoError" or status == 403:
        return CheckpointError(f"{what}: access is granted by request: ask for it on {where}, then set HF_TOKEN")
    if kind == "RepositoryNotFoundError" or status in (401, 404):
        return CheckpointError(
            f"{what}: no such folder here and no such model on {where}; check the spelling, "
            "or set HF_TOKEN if it is private"
        )
    if isinstance(error, OSError) and error.errno in (28, 122, 30, 13):
        return CheckpointError(f"{what}: cannot be saved ({error.strerror}); free space or set HF_HOME or cache_dir")
    detail = " ".join(str(error).split())[:160]
    return CheckpointError(
        f"{what}: no such folder here, and {where} cannot be reached ({kind}: {detail}); check the network or proxy, "
        "set HF_ENDPOINT to a mirror, or give a local folder; a download that broke off resumes when repeated"
    )


def _bar(progress: Progress | None) -> type[Any]:
    """A stand-in for tqdm that counts bytes into ``progress`` and prints nothing."""
    lock = threading.RLock()

    class Bar:
        _lock = lock

        def __init__(self, iterable: Any = None, *_: object, **options: Any) -> None:
            self.iterable = iterable
            self.bytes = options.get("unit") == "B" and "transfer" not in str(options.get("name", ""))
            self.total: float | None = options.get("total")
            self.n: float = options.get("initial") or 0
            self.disable = True

        def __iter__(self) -> Any:
            return iter(self.iterable)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def update(self, n: float | None = 1) -> None:
            with lock:
                self.n += n or 0
                if self.bytes and progress is not None:
                    progress(int(self.n), int(self.total or 0))

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *args, **options: None

        def close(self) -> None:
            pass

        @classmethod
        def get_lock(cls) -> Any:
            return lock

        @classmethod
        def set_lock(cls, _: object) -> None:
            pass

    return Bar


def _modelscope(name: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    try:
        from modelscope import snapshot_download  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise missing("modelscope", "modelscope") from error
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            cache_dir=None if cache_dir is None else str(cache_dir),
            allow_patterns=[*SMALL_FILES, *WEIGHT_FILES],
        )
    except Exception as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{name}: modelscope could not give this model ({type(error).__name__}: {detail}); check its name and the "
            "network, or unset PENSTOCK_USE_MODELSCOPE and VLLM_USE_MODELSCOPE to use Hugging Face"
        ) from error
    return Path(folder)
