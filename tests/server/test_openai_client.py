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


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_count_characters_of_the_text(talker, stream):
    """Tokens are bytes here: those of one character share the place where it begins, in a stream as in a whole."""
    talker.say("a—b😀💩c")
    body = {"prompt": "éx", "max_tokens": 30, "logprobs": 0, "echo": True}
    answer = talker.post("/v1/completions", {**body, "stream": stream, "stop": ["zz"]})
    choices = [c for e in answer.events for c in e["choices"]] if stream else answer.json["choices"]
    text = "".join(c["text"] for c in choices)
    assert text == "éxa—b😀💩c"
    offsets = [o for c in choices for o in c["logprobs"]["text_offset"]]
    assert offsets == [0, 0, 1, 2, 3, 3, 3, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 8]


def test_what_leaves_no_token_is_the_requests_mistake(server):
    """Not a server's error, which clients would try again."""
    body = {"prompt": "x", "max_tokens": 9, "allowed_token_ids": [97, 98], "bad_words": ["a", "b"]}
    for more in ({}, {"use_beam_search": True, "n": 2, "temperature": 0}, {"n": 2}):
        answer = server.post("/v1/completions", {**body, **more})
        assert answer.status == 400 and "nothing that is allowed can follow" in answer.error["message"]
    events = server.post("/v1/completions", {**body, "stream": True}).events
    assert events[-1]["error"]["code"] == "invalid_request"
    assert server.post("/v1/completions", {**body, "bad_words": ["a"]}).json["choices"][0]["text"] == "b" * 9


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
    beams = {**body, "max_tokens": 8, "use_beam_search": True, "n": 2}
    both = [c["text"] for c in server.post("/v1/completions", beams).json["choices"]]
    word = next(c for c in both[0] if c.isascii() and c.strip())
    found = server.post("/v1/completions", {**beams, "bad_words": [word]}).json["choices"]
    assert len(found) == 2 and all(word not in choice["text"] for choice in found)


def test_logprobs_of_tokens_that_are_named(server, client):
    """vLLM's ``logprob_token_ids``: those, and the chosen one, instead of the best."""
    body = {"prompt": "abc", "max_tokens": 5, "temperature": 0, "ignore_eos": True}
    best = server.post("/v1/completions", {**body, "logprobs": 20, "return_tokens_as_token_ids": True}).json
    known = best["choices"][0]["logprobs"]["top_logprobs"]
    ids = [int(name.removeprefix("token_id:")) for name in list(known[0])[3:6]]
    wish = {**body, "logprobs": 1, "logprob_token_ids": ids, "return_tokens_as_token_ids": True}
    found = server.post("/v1/completions", wish).json["choices"][0]["logprobs"]
    for at, (token, scores) in enumerate(zip(found["tokens"], found["top_logprobs"], strict=True)):
        assert set(scores) == {f"token_id:{i}" for i in ids} | {token}
        for name, logprob in scores.items():
            assert logprob == pytest.approx(known[at].get(name, logprob), abs=1e-5)
    assert scores[found["tokens"][-1]] == pytest.approx(found["token_logprobs"][-1], abs=1e-5)
    chat = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": "x"}], max_tokens=3, logprobs=True, temperature=0,
        extra_body={"logprob_token_ids": ids, "return_tokens_as_token_ids": True},
    )  # fmt: skip
    entries = chat.choices[0].logprobs.content
    assert len(entries) == 3
    for entry in entries:
        assert {e.token for e in entry.top_logprobs} == {f"token_id:{i}" for i in ids} | {entry.token}
    for wrong in ([10**6], [-1], list(range(129)), ["x"]):
        answer = server.post("/v1/completions", {**body, "logprobs": 0, "logprob_token_ids": wrong})
        assert answer.status == 400 and "logprob_token_ids" in answer.error["message"], wrong
    assert server.post("/v1/completions", {**body, "logprob_token_ids": [1]}).status == 400


def test_an_answer_that_goes_round_in_circles_is_ended(talker):
    """vLLM's ``repetition_detection``."""
    talker.say("So: abcabcabcabcabc, and on.")
    body = {"prompt": "x", "max_tokens": 60, "temperature": 0}
    wish = {"max_pattern_size": 4, "min_pattern_size": 2, "min_count": 3}
    found = talker.post("/v1/completions", {**body, "repetition_detection": wish}).json["choices"][0]
    assert found["text"] == "So: abcabcabc"
    assert found["finish_reason"] == "repetition" and found["stop_reason"] == "repetition_detected"
    late = talker.post("/v1/completions", {**body, "repetition_detection": wish, "min_tokens": 15}).json["choices"][0]
    assert late["text"] == "So: abcabcabcab"
    for other in ({}, {"max_pattern_size": 2, "min_count": 3}, {"max_pattern_size": 9, "min_count": 9}):
        whole = talker.post("/v1/completions", {**body, "repetition_detection": other}).json["choices"][0]
        assert whole["text"].endswith("and on.") and whole["finish_reason"] == "stop", other
    for wrong in (
        {"max_pattern_size": 3}, {"max_pattern_size": 3, "min_count": 1}, {"max_pattern_size": -1},
        {"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 2}, {"max_pattern_size": 10**9, "min_count": 2},
        {"max_patern_size": 3}, {"max_pattern_size": "3", "min_count": 2},
    ):  # fmt: skip
        answer = talker.post("/v1/completions", {**body, "repetition_detection": wrong})
        assert answer.status == 400 and "repetition_detection" in answer.error["message"], wrong


def test_what_the_template_made_is_told(server):
    """vLLM's ``return_prompt_text``, and the prompt's ids with the first piece of a stream."""
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "return_prompt_text": True}
    found = server.post("/v1/chat/completions", {**chat, "return_token_ids": True}).json
    assert found["prompt_text"] == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    events = server.post("/v1/chat/completions", {**chat, "return_token_ids": True, "stream": True}).events
    assert events[0]["prompt_text"] == found["prompt_text"]
    assert events[0]["prompt_token_ids"] == found["prompt_token_ids"]
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert not any("prompt_text" in event for event in events[1:])
    assert server.post("/v1/completions", {"prompt": "x", "return_prompt_text": True}).status == 400


async def test_the_asynchronous_client_many_at_once(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as client:
        import asyncio

        async def one(i: int) -> str:
            found = await client.completions.create(model=NAME, prompt=f"p{i % 4}", max_tokens=5, seed=i % 4)
            return found.choices[0].text

        texts = await asyncio.gather(*(one(i) for i in range(24)))
    assert all(texts[i] == texts[i % 4] for i in range(24))
