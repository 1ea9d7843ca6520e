"""The official ``openai`` client against a running server."""

from __future__ import annotations

import openai
import pytest

from tests.server.harness import NAME

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


def test_models(client):
    assert [m.id for m in client.models.list().data] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match=r"no model 'gpt-4'.*'tiny'"):
        client.models.retrieve("gpt-4")


def test_chat_is_the_same_streamed_and_not(client):
    options = {"model": NAME, "messages": HELLO, "max_tokens": 40, "seed": 3, "temperature": 1.0}
    whole = client.chat.completions.create(**options)
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert isinstance(whole.system_fingerprint, str)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])
    assert len({(c.id, c.created) for c in chunks}) == 1


def test_answers_differ_and_each_stream_is_told_apart(client):
    options = {"model": NAME, "messages": HELLO, "max_tokens": 12, "seed": 5, "n": 3}
    whole = client.chat.completions.create(**options)
    texts = [c.message.content for c in whole.choices]
    assert [c.index for c in whole.choices] == [0, 1, 2] and len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**options, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert 3 <= whole.usage.completion_tokens <= 36


def test_logprobs_of_a_chat(client):
    options = {"model": NAME, "messages": HELLO, "max_tokens": 8, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**options, extra_body={"ignore_eos": True})
    content = whole.choices[0].logprobs.content
    assert len(content) == whole.usage.completion_tokens == 8
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == entry.logprob <= 0
        assert entry.top_logprobs[0].bytes == entry.bytes
    streamed = [
        entry
        for chunk in client.chat.completions.create(**options, stream=True, extra_body={"ignore_eos": True})
        if chunk.choices and chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    # The prompt comes from the prefix cache the second time: the same bits.
    assert streamed == content


@pytest.mark.parametrize("prompt", ["ab", ["ab"], [97, 98], [[97, 98]]])
def test_every_shape_of_a_prompt_gives_the_same(client, prompt):
    found = client.completions.create(
        model=NAME, prompt=prompt, max_tokens=6, temperature=0, extra_body={"add_special_tokens": False}
    )
    same = client.completions.create(model=NAME, prompt=[97, 98], max_tokens=6, temperature=0)
    assert found.choices[0].text == same.choices[0].text
    assert found.usage.prompt_tokens == 2


def test_several_prompts_with_several_answers(client):
    options = {"model": NAME, "prompt": ["one", "two", "three"], "n": 2, "max_tokens": 5, "seed": 1}
    whole = client.completions.create(**options)
    assert [c.index for c in whole.choices] == list(range(6))
    texts = [""] * 6
    for chunk in client.completions.create(**options, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [c.text for c in whole.choices]
    alone = client.completions.create(**{**options, "prompt": "two"})
    assert [c.text for c in alone.choices] == texts[2:4]


def test_best_of_gives_the_likeliest(client):
    body = {"ignore_eos": True}
    options = {"model": NAME, "prompt": "x", "max_tokens": 6, "seed": 9, "logprobs": 0, "extra_body": body}
    all_four = client.completions.create(**options, n=4)
    best = client.completions.create(**options, best_of=4)
    scores = [sum(c.logprobs.token_logprobs) for c in all_four.choices]
    assert len(best.choices) == 1
    assert best.choices[0].text == all_four.choices[scores.index(max(scores))].text


def test_echo_with_logprobs_scores_the_prompt(client):
    found = client.completions.create(
        model=NAME, prompt="abc", max_tokens=2, temperature=0, echo=True, logprobs=1, extra_body={"ignore_eos": True}
    )
    scores = found.choices[0].logprobs
    assert found.choices[0].text.startswith("abc")
    assert len(scores.tokens) == 5 and scores.token_logprobs[0] is None and scores.top_logprobs[0] is None
    assert scores.text_offset[:4] == [0, 1, 2, 3]
    only = client.completions.create(model=NAME, prompt="abc", max_tokens=0, echo=True, logprobs=1)
    assert only.choices[0].text == "abc"
    assert only.choices[0].logprobs.token_logprobs == scores.token_logprobs[:3]
    assert only.usage.completion_tokens == 0
    chunks = list(
        client.completions.create(model=NAME, prompt="abc", max_tokens=2, temperature=0, echo=True, stream=True)
    )
    assert "".join(c.choices[0].text for c in chunks) == found.choices[0].text


def test_stop_strings_and_bias(client):
    options = {"model": NAME, "prompt": "q", "temperature": 0, "max_tokens": 30}
    forced = client.completions.create(**options, logit_bias={"120": 100})
    assert forced.choices[0].text == "x" * 30 and forced.choices[0].finish_reason == "length"
    stopped = client.completions.create(**options, logit_bias={"120": 100}, stop=["xxxx"])
    assert stopped.choices[0].text == "" and stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].model_extra["stop_reason"] == "xxxx"


def test_errors_are_the_clients_kinds(client):
    with pytest.raises(openai.BadRequestError, match="temperature must be") as bad:
        client.chat.completions.create(model=NAME, messages=HELLO, temperature=-1)
    assert bad.value.param == "temperature" and bad.value.code == "invalid_request"
    with pytest.raises(openai.BadRequestError, match="context") as long:
        client.completions.create(model=NAME, prompt="y" * 5000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="did you mean 'max_tokens'"):
        client.completions.create(model=NAME, prompt="y", extra_body={"max_token": 3})
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="y")


def test_bad_words(server):
    body = {"prompt": "tell", "max_tokens": 30, "temperature": 0, "ignore_eos": True}
    text = server.post("/v1/completions", body).json["choices"][0]["text"]
    word = next(text[i : i + 2] for i in range(len(text) - 1) if text[i : i + 2].isascii() and text[i : i + 2].strip())
    found = server.post("/v1/completions", {**body, "bad_words": [word]})
    assert found.status == 200 and word not in found.json["choices"][0]["text"]
    for wrong in ([""], [" "], ["x"] * 200, ["x" * 100]):
        answer = server.post("/v1/completions", {**body, "bad_words": wrong})
        assert answer.status == 400 and answer.error["param"] == "bad_words", wrong
    beams = {"prompt": "x", "use_beam_search": True, "bad_words": ["y"]}
    assert server.post("/v1/completions", beams).status == 400


async def test_the_asynchronous_client_many_at_once(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as client:
        import asyncio

        async def one(i: int) -> str:
            found = await client.completions.create(model=NAME, prompt=f"p{i % 4}", max_tokens=5, seed=i % 4)
            return found.choices[0].text

        texts = await asyncio.gather(*(one(i) for i in range(24)))
    assert all(texts[i] == texts[i % 4] for i in range(24))
