"""Downloads, against a stand-in hub on this machine. Each case is a process of its own: the library reads its
environment once, when it is imported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.checkpoints import hub
from penstock.errors import CheckpointError, MissingDependencyError
from tests.checkpoints.files import encode
from tests.checkpoints.stand_in_hub import SHA, serve
from tests.helpers import REPOSITORY

TENSORS: dict[str, Any] = {"a.weight": np.arange(5000, dtype=np.float32)}
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": encode(TENSORS),
    "consolidated.safetensors": b"no",
    "original/model.safetensors": b"no",
    "pytorch_model.bin": b"no",
    "run_me.py": b"no",
}
PROGRAM = """
import json, sys
from penstock.checkpoints.folder import Checkpoint
from penstock.errors import PenstockError
seen = []
try:
    with Checkpoint.open(sys.argv[1], revision=sys.argv[2] or None, cache_dir=sys.argv[3],
                         progress=lambda done, total: seen.append((done, total))) as c:
        out = {"path": str(c.path), "sum": float(c.weights.get("a.weight").sum()), "seen": seen,
               "files": sorted(p.name for p in c.path.iterdir())}
except PenstockError as error:
    out = {"error": str(error), "kind": error.kind}
print(json.dumps(out))
"""


def environment(cache: Path, url: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "VLLM_")) and "proxy" not in k.lower()}
    return {**inherited, "PYTHONPATH": str(REPOSITORY / "src"), "HF_HOME": str(cache), "HF_ENDPOINT": url}


def fetch(cache: Path, url: str, name: str = "org/model", revision: str = "", **settings: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, revision, str(cache / "hub")],
        env={**environment(cache, url), **settings}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert "\n" not in found.get("error", "")
    assert "Traceback" not in done.stderr
    return found


def test_a_model_is_downloaded_once_and_then_read_from_the_cache(tmp_path: Path) -> None:
    with serve({"org/model": FILES}) as server:
        found = fetch(tmp_path, server.url)
        assert found["files"] == ["config.json", "model.safetensors", "tokenizer.json"], "nothing else is fetched"
        assert found["sum"] == float(TENSORS["a.weight"].sum())
        assert found["path"].endswith(SHA)
        expected = sum(len(FILES[file]) for file in found["files"])
        assert found["seen"][-1] == [expected, expected]
        server.paths.clear()
        assert fetch(tmp_path, server.url)["files"] == found["files"]
        assert not [path for path in server.paths if "safetensors" in path and path.startswith("GET")]
    offline = fetch(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert offline["sum"] == found["sum"]
    assert fetch(tmp_path, "http://127.0.0.1:9")["sum"] == found["sum"], "a dead hub does not matter once it is cached"


def test_offline_without_a_cache(tmp_path: Path) -> None:
    assert "HF_HUB_OFFLINE is set: unset it" in fetch(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")["error"]


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    told = fetch(tmp_path, "http://127.0.0.1:9")["error"]
    assert "http://127.0.0.1:9 cannot be reached" in told
    assert "check the network or proxy, set HF_ENDPOINT to a mirror, or give a local folder" in told


def test_names_and_revisions_that_do_not_exist(tmp_path: Path) -> None:
    with serve({"org/model": FILES}) as server:
        assert "no such model on http" in fetch(tmp_path, server.url, "org/other")["error"]
        assert "no such revision" in fetch(tmp_path, server.url, revision="v9")["error"]


def test_an_interrupted_download_ends_at_once(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a file that would take minutes."""
    program = PROGRAM.replace("seen.append((done, total))", "print(done, flush=True)")
    with serve({"org/model": FILES}, "slow") as server:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "org/model", "", str(tmp_path / "hub")],
            env=environment(tmp_path, server.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        while int(process.stdout.readline()) < 10_000:
            pass
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in told


def test_a_hub_that_never_answers(tmp_path: Path) -> None:
    with serve({"org/model": FILES}, "hang") as server:
        told = fetch(tmp_path, server.url, HF_HUB_ETAG_TIMEOUT="1")["error"]
        assert "cannot be reached (ReadTimeout" in told


@pytest.mark.parametrize(
    ("fault", "told"),
    [("401", "set HF_TOKEN"), ("403", "ask for it on"), ("500", "cannot be reached"), ("cut", "resumes when repeated")],
)
def test_a_hub_that_answers_badly(tmp_path: Path, fault: str, told: str) -> None:
    with serve({"org/model": FILES}, fault) as server:
        assert told in fetch(tmp_path, server.url)["error"]


def test_a_model_in_another_format_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    for others, said in (
        ({"model.onnx": b"no", "weights.bin": b"no"}, "that can be read, only .bin, .onnx; choose"),
        ({"m-q4_0.gguf": b"no", "m-q8_0.gguf": b"no"}, "several GGUF files of this model: m-q4_0.gguf, m-q8_0.gguf"),
    ):
        with serve({"org/model": {"config.json": FILES["config.json"], **others}}) as server:
            found = fetch(tmp_path, server.url)
            assert found["kind"] == "unsupported_checkpoint"
            assert said in found["error"]
            assert not [path for path in server.paths if "/resolve/" in path]


def test_the_second_best_format_is_fetched_where_there_is_no_other() -> None:
    both = ["model.safetensors", "pytorch_model.bin", "m.gguf", "original/x.safetensors"]
    assert hub._weights("m", both) == {"model.safetensors"}
    assert hub._weights("m", both[1:]) == {"pytorch_model.bin"}
    split = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-m.gguf"]
    assert hub._weights("m", split) == set(split[:2])


@pytest.mark.parametrize("variable", ["PENSTOCK_USE_MODELSCOPE", "VLLM_USE_MODELSCOPE"])
def test_modelscope_is_asked_for_by_the_environment(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "True")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingDependencyError, match="pip install 'penstock\\[modelscope\\]'"):
        hub.download("qwen/Qwen-1_8B", None, None)


def test_modelscope_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []

    class Library:
        @staticmethod
        def snapshot_download(name: str, **options: Any) -> str:
            calls.append((name, options["revision"], options["cache_dir"]))
            if name == "org/absent":
                raise ConnectionError("no\nroute")
            return str(tmp_path)

    monkeypatch.setenv("PENSTOCK_USE_MODELSCOPE", "1")
    monkeypatch.setitem(sys.modules, "modelscope", Library)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert hub.download("org/model", "v1", tmp_path / "c") == tmp_path
    assert calls == [("org/model", "v1", str(tmp_path / "c"))] * 2, "safetensors first, then the next best"
    with pytest.raises(CheckpointError, match=r"ConnectionError: no route.*unset PENSTOCK_USE_MODELSCOPE"):
        hub.download("org/absent", None, None)


def command(cache: Path, url: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock", "download", *argv], env=environment(cache, url), capture_output=True,
        text=True, timeout=100, check=False,
    )  # fmt: skip


def test_the_command_fetches_a_model_or_one_file(tmp_path: Path) -> None:
    with serve({"org/model": FILES}) as server:
        whole = command(tmp_path, server.url, "org/model", "--cache-dir", str(tmp_path / "a"))
        assert whole.returncode == 0, whole.stderr
        folder = Path(whole.stdout.strip())
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
        one = command(tmp_path, server.url, "org/model", "config.json", "--cache-dir", str(tmp_path / "b"))
        assert Path(one.stdout.strip()).read_bytes() == FILES["config.json"]
        assert [p.name for p in Path(one.stdout.strip()).parent.iterdir()] == ["config.json"]
        for argv, code, told in (
            (("org/model", "absent.gguf"), 3, "no file 'absent.gguf'"), (("org/other",), 3, "no such model"),
            (("org/model", "../x"), 3, "inside the repository"), ((), 2, "name of a model on a hub"),
            (("/etc/passwd",), 2, "name of a model on a hub"),
        ):  # fmt: skip
            found = command(tmp_path, server.url, *argv)
            assert found.returncode == code, found.stderr
            assert told in found.stderr
            assert "Traceback" not in found.stderr
