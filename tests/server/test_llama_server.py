"""llama.cpp's dialect."""

from __future__ import annotations

import pytest


def test_completion_whole_and_streamed(talker):
    talker.say("Hello, you.")
    found = talker.post("/completion", {"prompt": "hi", "n_predict": 50, "cache_prompt": True, "seed": -1}).json
    assert found["content"] == "Hello, you." and found["stop"] and found["stop_type"] == "eos"
    assert found["tokens_predicted"] == 12 and found["timings"]["predicted_n"] == 12
    assert found["timings"]["prompt_n"] + found["timings"]["cache_n"] == 2
    events = talker.post("/completion", {"prompt": "hi", "n_predict": 5, "stream": True, "return_tokens": True}).events
    assert "".join(e["content"] for e in events) == "Hello"
    assert events[-1]["stop"] and events[-1]["stop_type"] == "limit" and len(events[-1]["tokens"]) == 5
    word = talker.post("/completions", {"prompt": [104, 105], "stop": ["lo"]}).json
    assert (word["content"], word["stop_type"], word["stopping_word"]) == ("Hel", "word", "lo")


def test_probabilities_and_several_prompts(talker):
    talker.say("ab")
    found = talker.post("/completion", {"prompt": ["x", "y"], "n_predict": 2, "n_probs": 3}).json
    assert [f["content"] for f in found] == ["ab", "ab"]
    for entry in found[0]["completion_probabilities"]:
        assert len(entry["top_logprobs"]) == 3 and set(entry) == {"id", "token", "bytes", "logprob", "top_logprobs"}


def test_props_slots_template_tokens(talker):
    server = talker.server
    assert server.get("/props").json["default_generation_settings"]["n_ctx"] == 1024
    assert len(server.get("/slots").json) == 16
    prompt = talker.post("/apply-template", {"messages": [{"role": "user", "content": "x"}]}).json["prompt"]
    assert prompt.endswith("<|im_start|>assistant\n")
    assert talker.post("/tokenize", {"content": "hé"}).json == {"tokens": [104, 195, 169]}
    pieces = talker.post("/tokenize", {"content": "hé", "with_pieces": True}).json["tokens"]
    assert pieces == [{"id": 104, "piece": "h"}, {"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]
    assert talker.post("/detokenize", {"tokens": [104, 105]}).json["content"] == "hi"


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"prompt": ""}, {"prompt": "a", "grammar": "root ::= x"}, {"prompt": "a", "mirostat": 2},
        {"prompt": "a", "n_predict": -5}, {"prompt": "a", "n_predict": 10**9}, {"prompt": "a", "n_probs": 10**6},
        {"prompt": "a", "logit_bias": [["x", 1]]}, {"prompt": "a", "temprature": 1}, {"prompt": "a", "min_p": 7},
        {"prompt": ["a", "b"], "stream": True}, {"prompt": "a", "samplers": ["top_k"]},
    ],
)  # fmt: skip
def test_errors_are_in_its_form(talker, fields):
    answer = talker.post("/completion", fields)
    assert answer.status == 400 and set(answer.json["error"]) == {"code", "message", "type"}
    refused = talker.post("/infill", {"input_prefix": "a"})
    assert refused.status == 400 and refused.error["type"] == "not_supported_error"


def test_more_tokens_than_the_context_holds(talker):
    """``n_predict`` ends where the context does, and ``truncated`` says so."""
    talker.say("x" * 2000)
    for count, truncated in ((50000, True), (-1, True), (20, False)):
        found = talker.post("/completion", {"prompt": "a", "n_predict": count}).json
        assert (found["truncated"], found["stop_type"]) == (truncated, "limit")
        assert found["tokens_predicted"] == (1023 if truncated else 20)


def test_a_prompt_is_only_computed(talker):
    talker.say("a\nb")
    for stream in (False, True):
        answer = talker.post("/completion", {"prompt": "abc", "n_predict": 0, "stream": stream})
        found = answer.events[-1] if stream else answer.json
        assert (found["content"], found["tokens_predicted"], found["tokens_evaluated"]) == ("", 0, 3)
        assert not stream or len(answer.events) == 1
    streamed = talker.post("/completion", {"prompt": "abc", "stream": True}).events
    assert streamed[-1]["has_new_line"] and streamed[-1]["content"] == ""


def test_texts_and_tokens_in_one_prompt(talker):
    talker.say("x")
    mixed = talker.post("/completion", {"prompt": ["ab", 256, 99, "d"], "n_predict": 1}).json
    assert mixed["tokens_evaluated"] == 5
    assert talker.post("/completion", {"prompt": [True, "a"]}).status == 400


def test_its_fields_on_openais_routes(server):
    """What llama-server's own clients send along; what would change the answer is refused by name."""
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    plain = server.post("/v1/chat/completions", chat).json["choices"][0]["message"]["content"]
    neutral = {
        "cache_prompt": True, "timings_per_token": True, "reasoning_format": "none", "dynatemp_range": 0,
        "dynatemp_exponent": 1, "xtc_probability": 0, "xtc_threshold": 0.1, "repeat_last_n": 64, "repeat_penalty": 1,
        "dry_multiplier": 0, "dry_base": 1.75, "dry_penalty_last_n": -1, "typical_p": 1, "mirostat": 0,
        "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
    }  # fmt: skip
    found = server.post("/v1/chat/completions", {**chat, **neutral})
    assert found.status == 200 and found.json["choices"][0]["message"]["content"] == plain
    same = {"repetition_penalty": 9.0}, {"repeat_penalty": 9.0}
    ours, theirs = (server.post("/v1/chat/completions", {**chat, **f}).json["choices"][0]["message"] for f in same)
    assert ours == theirs and ours["content"] != plain
    for field, value in (
        ("dry_multiplier", 0.8), ("xtc_probability", 0.5), ("mirostat", 2), ("samplers", ["temperature", "top_k"]),
        ("tfs_z", 0.5), ("top_n_sigma", 1.0),
    ):  # fmt: skip
        for path, body in (("/v1/chat/completions", chat), ("/completion", {"prompt": "x"})):
            answer = server.post(path, {**body, field: value})
            assert answer.status == 400 and field in answer.error["message"], (path, field)
    both = {**chat, "repetition_penalty": 1.2, "repeat_penalty": 1.1}
    assert server.post("/v1/chat/completions", both).error["param"] == "repeat_penalty"


def test_its_grammars_on_openais_routes(server):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 20}
    for field, value in (("grammar", 'root ::= "ab" | "cd"'), ("json_schema", {"enum": ["ab", "cd"]})):
        found = server.post("/v1/chat/completions", {**chat, field: value}).json["choices"][0]["message"]["content"]
        assert found.strip('"') in ("ab", "cd")
        answer = server.post("/v1/chat/completions", {**chat, field: value, "structured_outputs": {"regex": "a"}})
        assert answer.status == 400 and "not both" in answer.error["message"]
