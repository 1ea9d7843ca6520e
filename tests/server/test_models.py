"""Several models on one port, and defaults of sampling that the server sets."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigError, RequestError
from penstock.server.options import ServerOptions
from penstock.server.run import load
from penstock.server.state import make_state
from tests.server.harness import NAME, Scripted, Server, open_model


def test_each_name_answers_for_itself(llm, checkpoint):
    other = open_model(checkpoint, served_model_name="other")
    other.model.engine.executor = Scripted(other.model.executor, "I am the other.")
    body = {"prompt": "who?", "max_tokens": 30}
    with Server(llm, {"other": other}) as server:
        assert [m["id"] for m in server.get("/v1/models").json["data"]] == [NAME, "other"]
        text = server.post("/v1/completions", {**body, "model": "other"}).json["choices"][0]["text"]
        assert text == "I am the other."
        first = server.post("/v1/completions", {**body, "model": NAME, "seed": 1}).json
        for name in (None, "default", "tgi"):
            assert server.post("/v1/completions", {**body, "model": name, "seed": 1}).json["model"] == NAME
        assert first["choices"][0]["text"] != text
        assert server.post("/api/generate", {"model": "other", "prompt": "x", "stream": False}).json["model"] == "other"
        metrics = server.get("/metrics").body.decode()
        assert 'vllm:generation_tokens_total{model_name="other"}' in metrics
        answer = server.post("/v1/completions", {**body, "model": "othre"})
        assert answer.status == 404 and "did you mean 'other'" in answer.error["message"]
    other.close()


def test_one_model_of_several_names(llm):
    with Server(llm, model_aliases=("gpt-4o", "text-davinci-003")) as server:
        found = server.get("/v1/models").json["data"]
        assert [m["id"] for m in found] == [NAME, "gpt-4o", "text-davinci-003"]
        assert {m["root"] for m in found} == {NAME}
        for name in ("gpt-4o", "text-davinci-003", NAME):
            answer = server.post("/v1/completions", {"prompt": "x", "max_tokens": 2, "model": name})
            assert answer.status == 200 and answer.json["model"] == NAME
        assert server.get("/v1/models/gpt-4o").json["id"] == NAME
        assert server.post("/v1/completions", {"prompt": "x", "model": "gpt-4"}).status == 404
    with pytest.raises(ConfigError, match="several names"):
        make_state({"a": llm, "b": llm}, ServerOptions(model_aliases=("c",)))


def test_a_mapping_of_models_is_loaded(checkpoint):
    models: dict = {}
    engine = {"model": {"a": checkpoint, "b": str(checkpoint)}, "kv_cache_memory": 1 << 22, "threads": 1}
    load(models, engine)
    try:
        assert {name: llm.model.name for name, llm in models.items()} == {"a": "a", "b": "b"}
    finally:
        for llm in models.values():
            llm.close()


def test_no_model_is_told():
    with pytest.raises(ConfigError, match="--model"):
        make_state({}, ServerOptions())


def test_the_servers_own_sampling_defaults(llm):
    state = make_state({NAME: llm}, ServerOptions(), {"max_new_tokens": 7, "do_sample": False})
    params = state.default_params(state.find(None), 16)
    assert params.max_tokens == 7 and params.temperature == 0
    with pytest.raises(RequestError, match="temperature"):
        make_state({NAME: llm}, ServerOptions(), {"temperature": -1})


def test_clients_that_name_no_model_of_ours_get_the_first(server):
    """Hugging Face's JavaScript client sends the URL that it calls; it is never looked at."""
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    for name in ("", "tgi", "default", server.url, "https://example.invalid/model", None):
        found = server.post("/v1/chat/completions", {**chat, "model": name})
        assert found.status == 200 and found.json["model"] == NAME, name
    assert server.post("/v1/chat/completions", {**chat, "model": "ftp://x"}).status == 404
