"""Downloads from a hub: huggingface_hub by default, modelscope when the environment asks for it.

Environment: ``HF_ENDPOINT`` (a mirror), ``HF_HUB_OFFLINE`` (what is in the cache only), ``HF_TOKEN``, ``HF_HOME`` as
huggingface_hub has them, ``HF_HUB_ETAG_TIMEOUT`` and ``HF_HUB_DOWNLOAD_TIMEOUT`` (seconds without an answer, without
a byte; both 10) among them; ``PENSTOCK_USE_MODELSCOPE`` or ``VLLM_USE_MODELSCOPE`` for modelscope.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from penstock.checkpoints.progress import Counts, Progress
from penstock.checkpoints.source import some
from penstock.errors import CheckpointError, UnsupportedError, missing

SMALL_FILES = ("*.json", "*.model", "*.tiktoken", "*.txt", "*.jinja")
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin", "*.gguf")
"""What the weights may be, best first: only the first kind that a model has is fetched."""
OTHER_FORMATS = (".pth", ".onnx", ".msgpack", ".h5", ".bin")
LEFT_OUT = ("*/*", "consolidated*", "optimizer*", "training_args*", "adapter_model*", "mmproj*")
AT_ONCE = 4  # files
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
SPLIT = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")
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


def download_file(name: str, file: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    """One file of the model ``name``, downloaded where the cache lacks it. Raises as :func:`download` does."""
    if file.startswith("/") or ".." in Path(file).parts:
        raise CheckpointError(f"{file}: give the path of a file inside the repository")
    where = None if cache_dir is None else str(cache_dir)
    if _flag("PENSTOCK_USE_MODELSCOPE") or _flag("VLLM_USE_MODELSCOPE"):
        try:
            from modelscope import model_file_download  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise missing("modelscope", "modelscope") from error
        try:
            return Path(model_file_download(model_id=name, file_path=file, revision=revision, cache_dir=where))
        except Exception as error:
            raise _refused(name, error) from error
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing("huggingface_hub") from error
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=revision, cache_dir=where, endpoint=endpoint))
    except Exception as error:
        if type(error).__name__ in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
            raise CheckpointError(f"{name}: the hub has the model but no file '{file}' in it") from error
        raise _told(name, revision, endpoint, _flag("HF_HUB_OFFLINE"), error) from error


def _flag(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in TRUE


def _huggingface(name: str, revision: str | None, cache_dir: str | Path | None, progress: Progress | None) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError as error:
        raise missing("huggingface_hub") from error
    endpoint = os.environ.get("HF_ENDPOINT") or None
    offline = _flag("HF_HUB_OFFLINE")
    where = {"cache_dir": cache_dir, "endpoint": endpoint}
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    try:
        if offline:
            return _cached(huggingface_hub, name, revision, where)
        try:
            info = huggingface_hub.HfApi(endpoint=endpoint).model_info(
                name, revision=revision, timeout=timeout, files_metadata=True
            )
        except Exception as error:
            if _status(error) in (401, 403, 404):
                raise
            try:  # a hub that does not answer does not matter to a model in the cache
                return _cached(huggingface_hub, name, revision, where)
            except Exception:
                raise error from None
        return _fetch(huggingface_hub, name, revision, info, {**where, "etag_timeout": timeout}, progress)
    except CheckpointError:
        raise
    except Exception as error:  # the library's own kinds, its HTTP client's, the operating system's
        raise _told(name, revision, endpoint, offline, error) from error


def _cached(library: Any, name: str, revision: str | None, where: dict[str, Any]) -> Path:
    return Path(library.snapshot_download(name, revision=revision, local_files_only=True, **where))


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _fetch(
    library: Any, name: str, revision: str | None, info: Any, where: dict[str, Any], progress: Progress | None
) -> Path:
    """Each file by itself, of one commit: unlike the library's call for all, every request has a time limit."""
    sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
    weights = _weights(name, list(sizes))
    sizes = {file: size for file, size in sizes.items() if file in weights or _wanted(file, SMALL_FILES)}
    counts = Counts(sizes, progress)

    def fetch(file: str, commit: str | None) -> Path:
        path = library.hf_hub_download(name, file, revision=commit, tqdm_class=counts.bar(file), **where)
        counts.finish(file)
        return Path(path)

    files = sorted(sizes, key=lambda file: (file in weights, file))
    fetch(files[0], revision)  # by its branch, which the cache then remembers for offline use
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            folders = {path.parent for path in pool.map(lambda file: fetch(file, info.sha), files)}
        except BaseException:  # Ctrl-C too: files in flight end at their next piece, the rest never begins
            counts.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return folders.pop()


def _wanted(file: str, patterns: tuple[str, ...]) -> bool:
    wanted = any(fnmatchcase(file, known) for known in patterns)
    return wanted and not any(fnmatchcase(file, other) for other in LEFT_OUT)


def _weights(name: str, files: list[str]) -> set[str]:
    """The files of weights to fetch; refused before gigabytes are fetched where there are none, or several models."""
    for kind in WEIGHT_FILES:
        found = {file for file in files if _wanted(file, (kind,))}
        models = {SPLIT.sub("", file) for file in found}
        if kind == "*.gguf" and len(models) > 1:
            raise UnsupportedError(
                f"{name}: the hub has several GGUF files of this model: {some(sorted(models))}; download the one you "
                "mean and give its path"
            )
        if found:
            return found
    held = sorted({kind for kind in OTHER_FORMATS if any(file.endswith(kind) for file in files)})
    raise UnsupportedError(
        f"{name}: the hub has no weights of this model that can be read{', only ' + ', '.join(held) if held else ''}; "
        "choose a repository or revision with safetensors, pytorch_model.bin or GGUF files"
    )


def _told(name: str, revision: str | None, endpoint: str | None, offline: bool, error: Exception) -> CheckpointError:
    """One line that tells a wrong name, a closed door, the network and the disk apart."""
    kind = type(error).__name__
    status = _status(error)
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


def _modelscope(name: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    try:
        from modelscope import snapshot_download  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise missing("modelscope", "modelscope") from error
    folder = ""
    try:
        for kind in WEIGHT_FILES:  # it does not say beforehand which the model has
            folder = snapshot_download(
                name,
                revision=revision,
                cache_dir=None if cache_dir is None else str(cache_dir),
                allow_patterns=[*SMALL_FILES, kind],
                ignore_patterns=list(LEFT_OUT),
            )
            if any(Path(folder).glob(kind)):
                break
    except Exception as error:
        raise _refused(name, error) from error
    return Path(folder)


def _refused(name: str, error: Exception) -> CheckpointError:
    detail = " ".join(str(error).split())[:200]
    return CheckpointError(
        f"{name}: modelscope could not give this model ({type(error).__name__}: {detail}); check its name and the "
        "network, or unset PENSTOCK_USE_MODELSCOPE and VLLM_USE_MODELSCOPE to use Hugging Face"
    )
