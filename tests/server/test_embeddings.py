"""Texts to vectors over HTTP: four shapes of input, two encodings, three dialects."""

from __future__ import annotations

import base64
import json
import threading

import numpy as np
import pytest

from tests.server.harness import NAME, Raw, Server, eventually, make_checkpoint, open_model


def vectors(answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    return np.array([d["embedding"] for d in answer.json["data"]])


def test_the_vectors_are_the_models_hidden_states(server):
    """Against the final hidden state that the executor gives for the same tokens in one batch."""
    found = vectors(server.post("/v1/embeddings", {"input": [104, 105, 33], "normalize": False}))[0]
    mean = vectors(server.post("/v1/embeddings", {"input": "hi!", "normalize": False, "pooling": "mean"}))[0]
    one = [
        vectors(server.post("/v1/embeddings", {"input": ids, "normalize": False}))[0]
        for ids in ([104], [104, 105], [104, 105, 33])
    ]
    assert (found == one[-1]).all() and np.abs(found).max() > 0.01
    np.testing.assert_allclose(mean, np.mean(one, axis=0), rtol=1e-6)


def test_four_shapes_and_usage(server):
    ids = list(b"hello")
    for given, count in (("hello", 1), (ids, 1), (["hello", "hello"], 2), ([ids, ids, ids], 3)):
        answer = server.post("/v1/embeddings", {"input": given, "model": NAME, "user": "me"})
        found = vectors(answer)
        assert found.shape == (count, 32) and (found == found[0]).all()
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
        assert answer.json["usage"] == {"prompt_tokens": 5 * count, "total_tokens": 5 * count}
        assert [d["index"] for d in answer.json["data"]] == list(range(count))


def test_base64_and_dimensions(server):
    plain = vectors(server.post("/v1/embeddings", {"input": "hello"}))[0]
    coded = server.post("/v1/embeddings", {"input": "hello", "encoding_format": "base64"}).json["data"][0]["embedding"]
    assert (np.frombuffer(base64.b64decode(coded), "<f4") == plain.astype(np.float32)).all()
    short = vectors(server.post("/v1/embeddings", {"input": "hello", "dimensions": 7}))[0]
    np.testing.assert_allclose(short, plain[:7] / np.linalg.norm(plain[:7]), rtol=1e-5)
    for dimensions in (0, -1, 33):
        answer = server.post("/v1/embeddings", {"input": "hello", "dimensions": dimensions})
        assert answer.status == 400 and answer.error["param"] == "dimensions" and "32" in answer.error["message"]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_chunks_and_company_change_no_bit(server, checkpoint, pooling):
    text = "a long text about nothing. " * 20
    body = {"input": [text, "b", text[:100]], "pooling": pooling, "encoding_format": "base64"}
    want = server.post("/v1/embeddings", body).json["data"]
    model = open_model(checkpoint, max_num_batched_tokens=16, max_num_seqs=4)
    with Server(model) as other:
        threads = [
            threading.Thread(target=other.post, args=("/v1/completions", {"prompt": "x" * 50, "max_tokens": 60}))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        assert other.post("/v1/embeddings", body).json["data"] == want
        for thread in threads:
            thread.join()
        assert eventually(other.idle)
    model.close()


def test_pooling_of_the_checkpoint_and_of_the_server(tmp_path, server):
    path = make_checkpoint(tmp_path)
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    mean, last = (
        vectors(server.post("/v1/embeddings", {"input": "hello", "pooling": kind}))[0] for kind in ("mean", "last")
    )
    model = open_model(path)
    with Server(model) as other, Server(model, pooling="last") as told:
        assert (vectors(other.post("/v1/embeddings", {"input": "hello"}))[0] == mean).all()
        assert (vectors(told.post("/v1/embeddings", {"input": "hello"}))[0] == last).all()
    model.close()


@pytest.mark.parametrize(
    "body",
    [{}, {"input": ""}, {"input": []}, {"input": [""]}, {"input": [1, "a"]}, {"input": [10**6]}, {"input": {"a": 1}},
     {"input": "a", "encoding_format": "hex"}, {"input": "a", "pooling": "cls"}, {"input": "a", "dimension": 3},
     {"input": ["a"] * 2000}, {"input": [[]]}, {"input": "a" * 2000}, {"input": [True]},
     {"input": "a", "messages": []}],
)  # fmt: skip
def test_mistakes(server, body):
    answer = server.post("/v1/embeddings", body)
    assert answer.status == 400 and answer.error["message"]
    assert eventually(server.idle)


def test_a_text_may_fill_the_context_and_may_be_cut(server):
    assert server.post("/v1/embeddings", {"input": "a" * 1024}).status == 200
    answer = server.post("/v1/embeddings", {"input": "a" * 1025})
    assert answer.status == 400 and answer.error["code"] == "context_length_exceeded"
    assert server.post("/v1/embeddings", {"input": "a" * 1025, "truncate_prompt_tokens": 9}).json["usage"][
        "prompt_tokens"
    ] == 9  # fmt: skip


def test_who_leaves_is_forgotten(checkpoint):
    model = open_model(checkpoint, max_num_batched_tokens=16, max_num_seqs=4)
    with Server(model) as server:
        with Raw(server.port) as raw:
            raw.ask("POST", "/v1/embeddings", {"input": ["a" * 1000] * 50})
            assert eventually(lambda: len(server.state.tasks) == 1)
        assert eventually(server.idle)
    model.close()


def test_the_official_client(server):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x")
    found = client.embeddings.create(model=NAME, input=["hello", "you"])
    assert len(found.data[0].embedding) == 32 and found.usage.prompt_tokens == 8
    plain = client.embeddings.create(model=NAME, input="hello", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(found.data[0].embedding)


def test_ollama(server):
    want = vectors(server.post("/v1/embeddings", {"input": ["hello", "you"]}))
    found = server.post("/api/embed", {"model": NAME, "input": ["hello", "you"]}).json
    np.testing.assert_allclose(found["embeddings"], want, rtol=1e-6)
    assert found["prompt_eval_count"] == 8 and found["total_duration"] > 0 and found["model"] == NAME
    assert server.post("/api/embed", {"model": NAME, "input": "a" * 2000}).json["prompt_eval_count"] == 1024
    assert server.post("/api/embed", {"model": NAME, "input": "a" * 2000, "truncate": False}).status == 400
    assert server.post("/api/embeddings", {"model": NAME, "prompt": "hello"}).json["embedding"] == pytest.approx(
        want[0]
    )
    for body in ({"model": NAME}, {"model": NAME, "input": []}, {"model": NAME, "input": "a", "option": {}}):
        assert server.post("/api/embed", body).status == 400
    ollama = pytest.importorskip("ollama", reason="the ollama client is not installed")
    client = ollama.Client(host=server.url)
    assert client.embed(model=NAME, input="hello").embeddings[0] == pytest.approx(list(want[0]))


def test_llama_server(server):
    want = vectors(server.post("/v1/embeddings", {"input": "hello"}))[0]
    assert server.post("/embedding", {"content": "hello"}).json == [{"index": 0, "embedding": [list(want)]}]
    assert len(server.post("/embeddings", {"content": ["a", "b"]}).json) == 2
    assert server.post("/embedding", {"content": "hello", "embd_normalize": 1}).status == 400
