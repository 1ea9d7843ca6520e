"""Models loaded when they are first asked, and unloaded to make room."""

from __future__ import annotations

import shutil
import threading
import time
from typing import Any

import pytest

from penstock.async_llm import AsyncLLM
from penstock.errors import ConfigError
from penstock.server import library
from penstock.server.library import scan, weight_of
from penstock.server.options import ServerOptions
from penstock.server.state import make_state
from tests.server.harness import EXECUTOR, NAME, Raw, Server, eventually

ENGINE = {
    "executor": EXECUTOR, "kv_cache_memory": 1 << 22, "max_num_batched_tokens": 64, "max_num_seqs": 8,
    "max_logits_rows": 64, "threads": 1, "served_model_name": "not for these", "adapters": {"nor": "this"},
}  # fmt: skip
ADMIN = {"Authorization": "Bearer root"}


@pytest.fixture
def folder(tmp_path, checkpoint):
    for name in ("one", "two", "org/three"):
        shutil.copytree(checkpoint, tmp_path / name)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("no model")
    return tmp_path


@pytest.fixture
def serving(folder):
    """Starts servers over ``folder`` and closes what they have loaded."""
    made = []

    def start(llm=None, **options):
        server = Server(llm, engine=ENGINE, models_dir=str(folder), admin_api_keys=("root",), **options)
        made.append((server, llm))
        return server

    yield start
    for server, llm in made:
        for served in server.state.served.values():
            if served.llm is not llm:
                served.llm.close()


def ask(server: Any, model: str, **more: Any) -> Any:
    return server.post("/v1/completions", {"model": model, "prompt": "hello", "max_tokens": 4, "seed": 1, **more})


def status(server: Any) -> dict[str, str]:
    return {m["id"]: m["status"]["value"] for m in server.get("/models").json["data"]}


def test_a_model_is_loaded_when_it_is_asked(serving):
    with serving() as server:
        names = ["broken", "one", "org/three", "two"]
        assert [m["id"] for m in server.get("/v1/models").json["data"]] == names
        assert set(status(server).values()) == {"unloaded"} and not server.state.served
        assert server.get("/v1/models/one").json["id"] == "one" and not server.state.served
        assert {m["name"] for m in server.get("/api/tags").json["models"]} == set(names)
        assert server.get("/health").status == 200
        answer = ask(server, "one")
        assert answer.status == 200 and answer.json["model"] == "one"
        assert status(server)["one"] == "loaded" and [*server.state.served] == ["one"]
        assert server.get("/v1/models/one").json["max_model_len"] == 1024
        assert [m["name"] for m in server.get("/api/ps").json["models"]] == ["one"]
        chat = {"model": "org/three", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "stream": True}
        assert server.post("/v1/chat/completions", chat).events[-1]["model"] == "org/three"
        assert server.post("/api/generate", {"model": "two:latest", "prompt": "x", "stream": False}).status == 200
        assert 'model_name="org/three"' in server.get("/metrics").body.decode()


def test_a_request_without_a_name_gets_the_first(serving):
    with serving() as server:
        shutil.rmtree(server.state.options.models_dir + "/broken")
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).json["model"] == "one"


def test_one_load_for_many_requests_and_nobody_else_waits(serving, llm, monkeypatch):
    loads, go = [], threading.Event()

    class Slow(AsyncLLM):
        def __init__(self, place, **options):
            loads.append(options["served_model_name"])
            assert go.wait(20)
            super().__init__(place, **options)

    monkeypatch.setattr(library, "AsyncLLM", Slow)
    with serving(llm) as server:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask(server, "one"))) for _ in range(5)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: status(server)["one"] == "loading")
        assert ask(server, NAME).status == 200  # the other model goes on meanwhile
        with Raw(server.port) as raw:  # who leaves does not end the load
            raw.ask("POST", "/v1/completions", {"model": "one", "prompt": "x"})
        go.set()
        for thread in threads:
            thread.join()
        assert [a.status for a in answers] == [200] * 5 and loads == ["one"]
        assert len({a.json["choices"][0]["text"] for a in answers}) == 1


def test_the_least_recently_used_goes(serving, llm):
    with serving(llm, max_loaded_models=2) as server:
        for name in ("one", "two", "one", "org/three"):
            assert ask(server, name).status == 200
        assert set(server.state.served) == {NAME, "one", "org/three"}
        threads = threading.active_count()
        for name in ("two", "one", "org/three", "two"):
            assert ask(server, name).status == 200
        assert threading.active_count() <= threads + 2
        assert set(server.state.served) == {NAME, "org/three", "two"}
        assert server.get("/metrics").body.decode().count('vllm:generation_tokens_total{model_name="one"}') == 0


def test_memory_is_bounded(serving, folder, monkeypatch):
    size = weight_of(folder / "one")
    assert size == (folder / "one" / "model.safetensors").stat().st_size
    with serving(model_memory=3 * size) as server:  # weights and the cache that has been filled
        for name in ("one", "two", "org/three"):
            assert ask(server, name).status == 200
            assert sum(library.footprint(s.llm) for s in server.state.served.values()) <= 4 * size
        assert len(server.state.served) < 3 and "org/three" in server.state.served
    with serving(model_memory=size - 1) as server:
        answer = ask(server, "one")
        assert answer.status == 500 and "--model-memory" in answer.error["message"]


def test_a_model_in_use_is_waited_for_and_never_taken(serving, monkeypatch):
    with serving(max_loaded_models=1) as server, Raw(server.port) as raw:
        raw.ask(
            "POST", "/v1/completions",
            {"model": "one", "prompt": "x", "max_tokens": 400, "ignore_eos": True, "stream": True},
        )  # fmt: skip
        raw.read_until(b"data:")
        began = time.monotonic()
        answer = ask(server, "two")
        assert answer.status == 200 and time.monotonic() >= began
        whole = raw.rest()
        assert b"[DONE]" in whole and b'"error"' not in whole
        assert [*server.state.served] == ["two"]
    monkeypatch.setattr(library, "WAIT_FOR_ROOM", 0.1)
    with serving(max_loaded_models=1) as server, Raw(server.port) as raw:
        body = {"model": "one", "prompt": "x", "max_tokens": 900, "n": 8, "ignore_eos": True, "stream": True}
        raw.ask("POST", "/v1/completions", body)
        raw.read_until(b"data:")
        answer = ask(server, "two")
        assert answer.status == 503 and answer.headers["retry-after"] == "5"


def test_what_cannot_be_loaded_is_told_without_paths(serving, folder):
    with serving() as server:
        answer = ask(server, "broken")
        assert answer.status == 500 and "broken" in answer.error["message"] and str(folder) not in answer.body.decode()
        for name in ("three", "../one", "/etc", str(folder / "one"), "one/../two", "nothing"):
            assert ask(server, name).status == 404
        assert ask(server, "one").status == 200
        assert ask(server, "broken").status == 500


def test_administrators_load_and_unload(serving, llm):
    with serving(llm) as server:
        assert server.post("/models/load", {"model": "one"}).status == 401
        assert server.post("/models/load", {"model": "one"}, **ADMIN).json == {"success": True}
        assert status(server)["one"] == "loaded"
        assert server.post("/models/unload", {"model": "one"}, **ADMIN).json == {"success": True}
        assert status(server)["one"] == "unloaded"
        assert server.post("/models/unload", {"model": "one"}, **ADMIN).status == 404
        assert server.post("/models/load", {"model": "none"}, **ADMIN).status == 404
        assert server.post("/models/unload", {"model": NAME}, **ADMIN).status == 409  # the caller's own
        assert ask(server, "one").status == 200
        with Raw(server.port) as raw:
            body = {"model": "one", "prompt": "x", "max_tokens": 900, "n": 8, "ignore_eos": True, "stream": True}
            raw.ask("POST", "/v1/completions", body)
            raw.read_until(b"data:")
            assert server.post("/models/unload", {"model": "one"}, **ADMIN).status == 409
        assert eventually(lambda: server.post("/models/unload", {"model": "one"}, **ADMIN).status == 200)


def test_nothing_is_lost_when_models_change_under_load(serving):
    """Two places for three models, and requests for all of them at once."""
    with serving(max_loaded_models=2) as server:
        answers = []

        def client(number: int) -> None:
            for i in range(4):
                answers.append(ask(server, ("one", "two", "org/three")[(number + i) % 3]))

        threads = [threading.Thread(target=client, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [a.status for a in answers] == [200] * 16
        assert len({a.json["choices"][0]["text"] for a in answers}) == 1  # the same weights under three names
        assert len(server.state.served) <= 2


def test_a_folder_without_models_is_told(tmp_path):
    assert scan(tmp_path) == {} and scan(tmp_path / "none") == {}
    with pytest.raises(ConfigError, match="--models-dir"):
        make_state({}, ServerOptions(models_dir=str(tmp_path)))
