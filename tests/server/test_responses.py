"""``/v1/responses`` with the official client: text, tools, reasoning, streams, and turns that go on."""

from __future__ import annotations

import json

import openai
import pytest

from tests.server.harness import NAME, Server

TOOLS = [{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.fixture
def client(talker):
    with openai.OpenAI(base_url=f"{talker.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


def test_text(talker, client):
    talker.say("Hello there.")
    found = client.responses.create(model=NAME, input="hi", instructions="be kind", max_output_tokens=50)
    assert found.output_text == "Hello there." and found.status == "completed"
    assert found.usage.output_tokens == 13 and found.usage.input_tokens > 10
    cut = client.responses.create(model=NAME, input="hi", max_output_tokens=5)
    assert cut.status == "incomplete" and cut.output_text == "Hello"
    assert cut.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    "said", ["Sm\N{LATIN SMALL LETTER O WITH DIAERESIS}r.", "<think>\nhm\n</think>\n\nWell.", f"Well. {CALL}"]
)
def test_log_probabilities_are_those_of_the_text(talker, client, said):
    """Whole and streamed; tokens are bytes here. Thoughts and calls have none."""
    talker.say(said)
    wish = {"model": NAME, "input": "x", "max_output_tokens": 90, "tools": TOOLS, "top_logprobs": 2}
    found = client.responses.create(**wish)
    part = next(item for item in found.output if item.type == "message").content[0]
    assert bytes(b for each in part.logprobs for b in each.bytes).decode() == part.text != ""
    assert all(len(each.top_logprobs) == 2 and each.logprob <= 0 for each in part.logprobs)
    with client.responses.stream(**wish) as stream:
        events = list(stream)
    told = [p for e in events if e.type == "response.output_text.delta" for p in e.logprobs]
    assert [p.token for p in told] == [p.token for p in part.logprobs]
    done = next(e for e in events if e.type == "response.output_text.done")
    assert len(done.logprobs) == len(told)
    asked = client.responses.create(
        model=NAME, input="x", max_output_tokens=90, include=["message.output_text.logprobs"]
    )
    assert all(p.top_logprobs == [] for i in asked.output if i.type == "message" for p in i.content[0].logprobs)
    assert client.responses.create(model=NAME, input="x", max_output_tokens=5).output[-1].content[0].logprobs in (
        [],
        None,
    )


def test_vllms_names_for_sampling_are_understood(server):
    """As its benchmarks send them."""
    wish = {"input": "x", "max_output_tokens": 16, "ignore_eos": True, "temperature": 0, "stream": False}
    found = server.post("/v1/responses", {**wish, "min_p": 0.1, "repetition_penalty": 1.1}).json
    assert found["usage"]["output_tokens"] == 16 and found["status"] == "incomplete"
    forced = server.post("/v1/responses", {**wish, "logit_bias": {"120": 100}}).json
    assert forced["output"][0]["content"][0]["text"] == "x" * 16
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 16, "bad_words": ["a"], "seed": 5, "top_k": 9}
    chatted = server.post("/v1/chat/completions", chat).json["choices"][0]["message"]["content"]
    same = {"input": "x", "max_output_tokens": 16, "bad_words": ["a"], "seed": 5, "top_k": 9}
    assert server.post("/v1/responses", same).json["output"][0]["content"][0]["text"] == chatted
    assert server.post("/v1/responses", {**wish, "min_p": 7}).status == 400


def test_a_turn_goes_on_from_the_one_before(talker, client):
    talker.say("I am Bob.")
    first = client.responses.create(model=NAME, input="who?", max_output_tokens=50)
    second = client.responses.create(model=NAME, input="what?", previous_response_id=first.id, max_output_tokens=50)
    alone = client.responses.create(model=NAME, input="what?", max_output_tokens=50)
    assert second.usage.input_tokens > alone.usage.input_tokens + len("who?I am Bob.")
    assert client.responses.retrieve(first.id).output_text == "I am Bob."
    assert client.responses.input_items.list(first.id).data[0].content[0].text == "who?"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=NAME, input="x", previous_response_id=first.id)
    unkept = client.responses.create(model=NAME, input="x", store=False, max_output_tokens=5)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_tokens_are_counted_as_they_are_used(talker, client):
    talker.say("Yes.")
    said = {"model": NAME, "input": "Is it so?", "instructions": "be kind", "tools": TOOLS}
    made = client.responses.create(**said, max_output_tokens=9)
    counted = client.responses.input_tokens.count(**said)
    assert counted.input_tokens == made.usage.input_tokens and counted.object == "response.input_tokens"
    more = client.responses.input_tokens.count(model=NAME, input="And now?", previous_response_id=made.id)
    assert more.input_tokens > client.responses.input_tokens.count(model=NAME, input="And now?").input_tokens + 9
    items = client.responses.input_items.list(made.id)
    assert items.first_id == items.last_id == items.data[0].id


def test_the_oldest_of_a_conversation_is_left_out_where_that_is_wished(talker, client):
    talker.say("Yes.")
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"{i:03}" * 20} for i in range(41)]
    said = {"model": NAME, "input": turns, "instructions": "be kind", "max_output_tokens": 20}
    with pytest.raises(openai.BadRequestError, match="1024"):
        client.responses.create(**said)
    with pytest.raises(openai.BadRequestError, match="1024"):
        client.responses.create(**said, truncation="disabled")
    found = client.responses.create(**said, truncation="auto")
    assert found.output_text == "Yes." and found.truncation == "auto"
    assert 700 < found.usage.input_tokens < 1024
    only = {**said, "input": "x" * 3000}
    with pytest.raises(openai.BadRequestError, match="1024"):
        client.responses.create(**only, truncation="auto")
    calls = [
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "z" * 800},
        {"role": "user", "content": "y" * 300},
    ]
    found = client.responses.create(**{**said, "input": calls}, truncation="auto")
    assert found.usage.input_tokens < 500, "the outcome goes with its call"


def test_there_is_nothing_to_cancel(talker, client):
    talker.say("Yes.")
    made = client.responses.create(model=NAME, input="x", max_output_tokens=9)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_none")


def test_events_of_a_stream(talker, client):
    talker.say(f"<think>\nhm\n</think>\n\nWell. {CALL}")
    events = list(client.responses.create(model=NAME, input="1+?", tools=TOOLS, max_output_tokens=200, stream=True))
    kinds = [e.type for e in events]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    for kind in (
        "response.reasoning_text.delta",
        "response.output_text.delta",
        "response.function_call_arguments.done",
    ):
        assert kind in kinds
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 3
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Well."
    final = events[-1].response
    assert [i.type for i in final.output] == ["reasoning", "message", "function_call"]
    assert json.loads(final.output[2].arguments) == {"a": 1} and final.output_text == "Well."
    with client.responses.stream(model=NAME, input="1+?", tools=TOOLS, max_output_tokens=200) as stream:
        assert stream.get_final_response().output_text == "Well."


def test_the_outcome_of_a_call_is_given_back(talker, client):
    talker.say(CALL)
    first = client.responses.create(model=NAME, input="1+?", tools=TOOLS, max_output_tokens=200)
    (call,) = first.output
    assert call.type == "function_call" and call.name == "add"
    talker.say("One.")
    outcome = {"type": "function_call_output", "call_id": call.call_id, "output": "1"}
    second = client.responses.create(
        model=NAME, input=[outcome], previous_response_id=first.id, tools=TOOLS, max_output_tokens=50
    )
    assert second.output_text == "One."


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"input": 5}, {"input": []}, {"input": [{"type": "computer_call"}]}, {"input": "x", "background": True},
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, {"input": "x", "conversation": "c"},
        {"input": "x", "tools": [{"type": "web_search"}]}, {"input": "x", "text": {"format": {"type": "xml"}}},
        {"input": "x", "max_output_tokens": 10**9}, {"input": "x", "truncation": "some"}, {"input": "x", "inptu": 1},
        {"input": "x", "include": ["everything"]}, {"input": "x", "top_logprobs": 21},
        {"input": [{"role": "boss", "content": "x"}]}, {"input": [{"type": "function_call", "name": 5}]},
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(talker, fields):
    assert talker.post("/v1/responses", {"max_output_tokens": 3, **fields}).status == 400


def test_responses_belong_to_the_key_that_made_them(llm):
    with Server(llm, api_keys=("a", "b")) as server:
        mine = server.post("/v1/responses", {"input": "x", "max_output_tokens": 2}, Authorization="Bearer a").json["id"]
        assert server.get(f"/v1/responses/{mine}", Authorization="Bearer a").status == 200
        assert server.get(f"/v1/responses/{mine}", Authorization="Bearer b").status == 404
