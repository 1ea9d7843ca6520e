"""Opening a checkpoint: what lies in a folder, and what to do about what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.checkpoints import hub
from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.jsonfile import MAX_CONFIG
from penstock.checkpoints.readers import open_weights
from penstock.errors import CheckpointError, PenstockError, UnsupportedError
from tests.checkpoints.files import folder, shard, write
from tests.helpers import REPOSITORY, shared

ONE: dict[str, Any] = {"a.weight": np.arange(4, dtype=np.float32)}
TWO: dict[str, Any] = {"b.weight": np.arange(3, dtype=np.float16)}
INDEX = "model.safetensors.index.json"


def names(path: Path) -> list[str]:
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.weights is not None
        for name in checkpoint.weights.names():
            assert checkpoint.weights.get(name).nbytes == checkpoint.weights.info(name).nbytes
            checkpoint.weights.release(name)
        return sorted(checkpoint.weights.names())


def error_of(path: Path | str, kind: type[PenstockError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        Checkpoint.open(path).close()
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_index(path: Path, **changes: Any) -> None:
    data = json.loads((path / INDEX).read_text())
    data["weight_map"] = {**data["weight_map"], **changes}
    (path / INDEX).write_text(json.dumps(data))


# -------------------------------------------------------------------------------------------------- what opens


def test_a_folder_with_one_file(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", ONE, {"model_type": "qwen2"})
    (path / "generation_config.json").write_text('{"eos_token_id": 7}')
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.path == path
        assert checkpoint.config == {"model_type": "qwen2"}
        assert checkpoint.generation_config == {"eos_token_id": 7}
        assert checkpoint.files == (path / "model.safetensors",)
    assert names(path) == ["a.weight"]


def test_one_file_beside_its_config(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", ONE)
    assert names(path / "model.safetensors") == ["a.weight"]
    assert names(shard(tmp_path / "s", ONE, TWO) / INDEX) == ["a.weight", "b.weight"]


def test_shards_by_index_and_by_number(tmp_path: Path) -> None:
    path = shard(tmp_path / "m", ONE, TWO)
    assert names(path) == ["a.weight", "b.weight"]
    (path / INDEX).unlink()
    assert names(path) == ["a.weight", "b.weight"]


def test_other_files_do_not_confuse(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", ONE)
    for other in ("consolidated.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "model.gguf"):
        (path / other).write_bytes(b"x")
    (path / "config.json").write_text('﻿{"model_type": "llama"}', encoding="utf-8")
    assert names(path) == ["a.weight"]


def test_a_file_of_another_name_if_it_is_the_only_one(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    write(path / "gptq_model-4bit-128g.safetensors", ONE)
    assert names(path) == ["a.weight"]
    write(path / "other.safetensors", TWO)
    assert "several files could be the weights: gptq_model-4bit-128g.safetensors, other.safetensors" in error_of(path)


@pytest.mark.parametrize(
    "given", ["models--org--name/snapshots/0a1b", "models--org--name", "Meta-Llama-3___1-70B-Instruct"]
)
def test_caches_of_hubs_are_folders(tmp_path: Path, given: str) -> None:
    """The layout of Hugging Face's cache, links to blobs included, and ModelScope's names with dots replaced."""
    root = tmp_path / "models--org--name"
    blobs, snapshot = root / "blobs", root / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    folder(snapshot)
    folder(tmp_path / "Meta-Llama-3___1-70B-Instruct", ONE)
    write(blobs / "ff", ONE)
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs/ff"))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0a1b")
    assert names(tmp_path / given) == ["a.weight"]


def test_a_cache_with_several_snapshots_follows_the_revision(tmp_path: Path) -> None:
    root = tmp_path / "models--org--name"
    folder(root / "snapshots" / "aa", ONE)
    folder(root / "snapshots" / "bb", TWO)
    assert "no snapshot of main" in error_of(root)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("bb\n")
    assert names(root) == ["b.weight"]
    with Checkpoint.open(root, "aa") as checkpoint:
        assert checkpoint.path.name == "aa"


def test_configuration_without_weights(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(folder(tmp_path / "m"), weights=False)
    assert (checkpoint.weights, checkpoint.files) == (None, ())
    assert "no weights here (model.safetensors" in error_of(tmp_path / "m")


# -------------------------------------------------------------------------------------------- what cannot open


def test_missing_shards_are_all_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "m", ONE, TWO, {"c": np.zeros(1)})
    for n in (1, 3):
        (path / f"model-0000{n}-of-00003.safetensors").unlink()
    told = "2 of 3 shards missing: model-00001-of-00003.safetensors, model-00003-of-00003.safetensors; download them"
    assert told in error_of(path)
    (path / INDEX).unlink()
    assert told in error_of(path)


def test_an_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    path = shard(tmp_path / "m", ONE, TWO)
    edit_index(path, gone="model-00001-of-00002.safetensors", **{"a.weight": "model-00002-of-00002.safetensors"})
    message = error_of(path)
    assert "2 tensors are not in the shard that the index names: a.weight, gone" in message
    assert "download both again" in message


@pytest.mark.parametrize(
    "file",
    [
        "../x.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        "a\\b",
        "C:x",
        "a\0b",
        "a\nb",
        "./x",
        "~/../x/",
        "x" * 9000 + "/",
    ],
)
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, file: str) -> None:
    path = shard(tmp_path / "m", ONE, TWO)
    edit_index(path, evil=file)
    message = error_of(path)
    assert "not a plain file name" in message
    assert len(message) < 600


@settings(max_examples=100)
@given(st.data())
def test_any_index_opens_or_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "index"
    shard(path, ONE, TWO)
    leaf = st.none() | st.integers() | st.text() | st.sampled_from(["model-00001-of-00002.safetensors", ".", "x"])
    mapping = st.dictionaries(st.sampled_from(["a.weight", "b.weight"]) | st.text(), leaf, max_size=4)
    whole = st.fixed_dictionaries({"weight_map": mapping}) | leaf | st.lists(leaf)
    text = json.dumps(data.draw(whole))
    cut = data.draw(st.integers(0, len(text)))
    (path / INDEX).write_text(data.draw(st.sampled_from([text, text[:cut], text[cut:]])))
    try:
        names(path)
    except CheckpointError as error:
        told = str(error)
        if not told.isprintable() or len(told) > 5000:
            raise


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": 1}, "x"])
def test_an_index_without_a_map_is_told(tmp_path: Path, weight_map: Any) -> None:
    path = folder(tmp_path / "m")
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert "no weight_map" in error_of(path)


def test_an_index_with_absurd_numbers_of_files(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / INDEX).write_text(json.dumps({"weight_map": {f"t{n}": f"f{n}" for n in range(20_000)}}))
    assert "names 20,000 files" in error_of(path)
    (path / INDEX).unlink()
    write(path / "model-00001-of-999999.safetensors", ONE)
    assert "999,999 shards" in error_of(path)


def test_a_tensor_in_two_shards_is_told(tmp_path: Path) -> None:
    message = error_of(shard(tmp_path / "m", {**ONE, "c": np.zeros(1)}, {**TWO, **ONE}))
    assert "1 tensors are also in model-00001-of-00002.safetensors: a.weight" in message


def test_a_broken_shard_is_told_by_name(tmp_path: Path) -> None:
    path = shard(tmp_path / "m", ONE, TWO)
    file = path / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert str(file) in error_of(path)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    assert "git lfs pull" in error_of(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[1]", "holds no JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (" " * (MAX_CONFIG + 1), "above the limit"),
    ],
)
def test_a_config_that_is_none(tmp_path: Path, text: str, told: str) -> None:
    path = folder(tmp_path / "m", ONE)
    (path / "config.json").write_text(text)
    message = error_of(path)
    assert told in message
    assert "config.json" in message


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "no config.json, so this is no model folder" in error_of(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "this is an adapter" in error_of(tmp_path)
    folder(tmp_path / "inner", ONE)
    assert "one in inner/: give that folder" in error_of(tmp_path)
    write(tmp_path / "x.safetensors", ONE)
    assert "no config.json beside this file" in error_of(tmp_path / "x.safetensors")


def test_a_format_that_carries_its_config_needs_none_beside_it(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    for path in (tmp_path, tmp_path / "m.gguf", folder(tmp_path)):
        assert "m.gguf: the header of 4 bytes" in error_of(path)


def test_a_file_of_no_known_kind(tmp_path: Path) -> None:
    (folder(tmp_path / "m") / "notes.txt").write_text("hello")
    assert "not a weights file" in error_of(tmp_path / "m" / "notes.txt", UnsupportedError)


def test_a_path_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    folder(tmp_path / "llama-7b", ONE)
    assert "did you mean 'llama-7b'?" in error_of(tmp_path / "lama-7b")
    assert "is no folder either" in error_of(tmp_path / "x" / "y")
    assert "no such folder or file; check the path" in error_of(tmp_path / "zzzzz")


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000])
def test_names_that_are_no_names(name: str) -> None:
    assert len(error_of(name)) < 6000


@pytest.mark.parametrize(
    ("name", "can_be"),
    [
        ("org/model", True), ("gpt2", True), ("Qwen/Qwen2.5-0.5B-Instruct", True), ("a/b/c", False), ("./m", False),
        ("../m", False), ("/m", False), ("~/m", False), ("a b", False), ("m.safetensors", False), ("a--b", False),
        ("org/", False), ("https://x/y", False), ("org/..", False), ("org/mödel\n", False),
    ],
)  # fmt: skip
def test_what_can_be_a_name_on_a_hub(name: str, can_be: bool) -> None:
    assert hub.looks_like_name(name) == can_be


def test_the_fixtures_open() -> None:
    """Every reference checkpoint in safetensors form opens, and its tensors are what the library reads."""
    library = pytest.importorskip("safetensors")
    seen = 0
    for config in sorted(shared("golden").glob("*/ckpt/config.json")):
        source, _ = open_weights(config.parent)
        files = {source.info(name).file for name in source.names()}
        for file in files:
            for name, entry in library.deserialize(file.read_bytes()):
                assert source.get(name).tobytes() == bytes(entry["data"])
                assert list(source.info(name).shape) == entry["shape"]
                seen += 1
        source.close()
    assert seen > 1000


def test_opening_a_folder_loads_no_heavy_library(tmp_path: Path) -> None:
    program = (
        "import sys; from penstock.checkpoints.folder import Checkpoint; from penstock.checkpoints.load import "
        "stream_weights; Checkpoint.open(sys.argv[1]).close(); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder(tmp_path / "m", ONE))],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    heavy = {"torch", "transformers", "safetensors", "huggingface_hub", "modelscope", "requests", "httpx2", "tqdm"}
    assert set(done.stdout.split()) & heavy == set()


@pytest.mark.parametrize(("file", "method"), [("quantize_config.json", "gptq"), ("quant_config.json", "awq")])
def test_old_tools_wrote_the_quantisation_beside_the_configuration(tmp_path: Path, file: str, method: str) -> None:
    path = folder(tmp_path / "m", ONE)
    (path / file).write_text('{"bits": 4}')
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.config["quantization_config"] == {"quant_method": method, "bits": 4}
    folder(path, ONE, config={"model_type": "llama", "quantization_config": {"quant_method": "fp8"}})
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.config["quantization_config"] == {"quant_method": "fp8"}
