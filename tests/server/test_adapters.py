"""Adapters as model names, loaded and unloaded by administrators while requests run."""

from __future__ import annotations

import pytest

from penstock.async_llm import AsyncLLM
from tests.adapters.some import base_of
from tests.helpers import golden
from tests.server.harness import NAME, Server, eventually, make_lora, open_model

ADMIN = {"Authorization": "Bearer root"}


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return make_lora(tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def server(checkpoint):
    model = open_model(checkpoint)
    with Server(model, admin_api_keys=("root",)) as running:
        yield running
    model.close()


def test_an_adapter_is_a_model(server, lora):
    body = {"prompt": "hello", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    plain = server.post("/v1/completions", body).json
    made = server.post("/v1/load_lora_adapter", {"lora_name": "style", "lora_path": str(lora)}, **ADMIN)
    assert made.status == 200 and made.json["parent"] == NAME
    assert [m["id"] for m in server.get("/v1/models").json["data"]] == [NAME, "style"]
    styled = server.post("/v1/completions", {**body, "model": "style"}).json
    assert styled["model"] == "style" and styled["choices"][0]["text"] != plain["choices"][0]["text"]
    assert server.post("/v1/completions", {**body, "model": NAME}).json["choices"] == plain["choices"]
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "model": "style"}
    assert server.post("/v1/messages", chat).json["model"] == "style"
    options = {"max_new_tokens": 24, "adapter_id": "style"}
    wish = {"inputs": "hello", "parameters": options}
    alone = server.post("/generate", {"inputs": "hello", "model": "style", "parameters": {"max_new_tokens": 24}}).json
    assert server.post("/generate", wish).json == alone
    options["adapter_id"] = "stile"
    answer = server.post("/generate", wish)
    assert answer.status == 422 and "did you mean 'style'" in answer.json["error"]
    assert server.post("/v1/unload_lora_adapter", {"lora_name": "style"}, **ADMIN).status == 200
    assert server.post("/v1/completions", {**body, "model": "style"}).status == 404
    assert server.post("/v1/unload_lora_adapter", {"lora_name": "style"}, **ADMIN).status == 404


def test_only_administrators_load(server, lora, llm):
    wish = {"lora_name": "x", "lora_path": str(lora)}
    assert server.post("/v1/load_lora_adapter", wish).status == 401
    assert server.post("/v1/load_lora_adapter", wish, Authorization="Bearer other").status == 401
    with Server(llm) as without:
        assert without.post("/v1/load_lora_adapter", wish, **ADMIN).status == 403
    with Server(llm, api_keys=("user",), admin_api_keys=("root",)) as both:
        assert both.post("/v1/load_lora_adapter", wish, Authorization="Bearer user").status == 401
        assert both.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, Authorization="Bearer user").status == 200


def test_what_cannot_be_loaded_is_told(server, tmp_path):
    none = str(tmp_path)
    for wish in (
        {"lora_name": "x", "lora_path": f"{none}/none"}, {"lora_name": "", "lora_path": "y"}, {"lora_name": "x"},
        {"lora_name": NAME, "lora_path": none}, {"lora_name": "x", "lora_path": none},
    ):  # fmt: skip
        assert server.post("/v1/load_lora_adapter", wish, **ADMIN).status == 400
    assert server.get("/health").status == 200


def test_prefixes_are_models_too_and_adapters_survive_a_crash(monkeypatch):
    places = {name: str(golden(f"peft_{name}") / "adapter") for name in ("lora_all_r8", "prefix_tuning")}
    model = AsyncLLM(
        base_of("peft_lora_all_r8"), skip_tokenizer_init=True, adapters={"lora_all_r8": places["lora_all_r8"]},
        threads=1, kv_cache_memory=1 << 24, served_model_name=NAME,
    )  # fmt: skip
    body = {"prompt": [5, 6, 7, 8], "max_tokens": 8, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    with Server(model, admin_api_keys=("root",)) as server:
        wish = {"lora_name": "prefix_tuning", "lora_path": places["prefix_tuning"]}
        assert server.post("/v1/load_lora_adapter", wish, **ADMIN).status == 200

        def answers() -> dict[str, tuple[int, ...]]:
            found = {}
            for name in (NAME, *places):
                answer = server.post("/v1/completions", {**body, "model": name})
                assert answer.status == 200, answer.body
                found[name] = tuple(answer.json["choices"][0]["token_ids"])
            return found

        before = answers()
        assert len(set(before.values())) == 3

        def die():
            raise SystemError("a bug of ours")

        monkeypatch.setattr(model.model.engine, "step", die)
        assert server.post("/v1/completions", body).status == 503
        assert eventually(lambda: server.get("/health").status == 200)
        assert answers() == before
        for served in server.state.served.values():
            served.llm.close()
