"""What operators see."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.server.harness import NAME, Server, open_model


def samples(server) -> dict[str, float]:
    text = server.get("/metrics").body.decode()
    return {
        s.name + "".join(f"|{v}" for k, v in sorted(s.labels.items()) if k != "model_name"): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_counters_and_histograms_under_both_names(checkpoint):
    model = open_model(checkpoint)
    with Server(model) as server:
        before = samples(server)
        body = {"prompt": "a" * 40, "max_tokens": 7, "ignore_eos": True}
        server.post("/v1/completions", body)
        server.post("/v1/completions", {**body, "stream": True})
        server.post("/v1/completions", {"prompt": ""})
        after = samples(server)
    model.close()
    for prefix in ("penstock_", "vllm:"):
        assert after[prefix + "generation_tokens_total"] - before[prefix + "generation_tokens_total"] == 14
        assert after[prefix + "kv_cache_usage_perc"] == 0
        assert after[prefix + "num_requests_running"] == after[prefix + "num_requests_waiting"] == 0
        assert after[prefix + "request_success_total|length"] == 2
        assert after[prefix + "prefix_cache_hits_total"] == after[prefix + "prompt_tokens_cached_total"] == 32
        assert after[prefix + "time_to_first_token_seconds_count"] == 2
        assert after[prefix + "inter_token_latency_seconds_count"] == 12
        assert after[prefix + "request_generation_tokens_sum"] == 14
        assert after[prefix + "e2e_request_latency_seconds_bucket|+Inf"] == 2
    assert after["penstock_http_responses_total|200|/v1/completions"] == 2
    assert after["penstock_http_responses_total|400|/v1/completions"] == 1


def test_sizes_of_steps_and_refusals(checkpoint):
    model = open_model(checkpoint)
    with Server(model) as server:
        server.post("/v1/completions", {"prompt": "x" * 20, "max_tokens": 3, "ignore_eos": True})
        server.state.draining = True
        assert server.post("/v1/completions", {"prompt": "x"}).status == 503
        server.state.draining = False
        text = server.get("/metrics").body.decode()
    model.close()
    for prefix in ("penstock_", "vllm:"):
        for bound, count in (("1.0", 2), ("16.0", 2), ("32.0", 3), ("+Inf", 3)):
            assert f'{prefix}iteration_tokens_total_bucket{{le="{bound}",model_name="tiny"}} {count}.0' in text
        assert f'{prefix}iteration_tokens_total_sum{{model_name="tiny"}} 22.0' in text
        assert f'{prefix}num_requests_waiting_by_reason{{model_name="tiny",reason="capacity"}} 0.0' in text
        assert f'{prefix}admission_rejections_total{{reason="shutting_down"}} 1.0' in text


TGI = (
    "tgi_request_count", "tgi_request_success", "tgi_request_failure", "tgi_queue_size", "tgi_batch_current_size",
    "tgi_batch_current_max_tokens", "tgi_request_duration", "tgi_request_validation_duration",
    "tgi_request_queue_duration", "tgi_request_inference_duration", "tgi_request_mean_time_per_token_duration",
    "tgi_request_input_length", "tgi_request_generated_tokens", "tgi_request_max_new_tokens",
)  # fmt: skip


def test_tgis_names(checkpoint):
    """Counters without ``_total``, as TGI writes them; it counts requests that it refuses, too."""
    model = open_model(checkpoint)
    with Server(model) as server:
        for stream in ("", "_stream"):
            body = {"inputs": "a" * 40, "parameters": {"max_new_tokens": 7}}
            assert server.post(f"/generate{stream}", body).status == 200
        server.post("/generate", {"inputs": ""})
        text = server.get("/metrics").body.decode()
        found = samples(server)
    model.close()
    for name in TGI:
        kind = "gauge" if "size" in name or "batch" in name else "histogram"
        kind = kind if name not in TGI[:3] else "counter"
        assert f"# TYPE {name} {kind}\n" in text
    for name, value in (("count", 3), ("success", 2), ("failure", 0)):
        assert f'\ntgi_request_{name}{{model_name="tiny"}} {value}.0\n' in text
    assert found["tgi_queue_size"] == found["tgi_batch_current_size"] == 0
    assert found["tgi_batch_current_max_tokens"] > 1000
    assert found["tgi_request_input_length_sum"] == 80 and found["tgi_request_max_new_tokens_sum"] == 14
    assert found["tgi_request_input_length_bucket|50"] == 2 and found["tgi_request_input_length_bucket|20"] == 0
    assert 0 < found["tgi_request_generated_tokens_sum"] <= 14
    for name in TGI[6:]:
        assert found[f"{name}_count"] == found[f"{name}_bucket|+Inf"] == (3 if "validation" in name else 2)
        assert found[f"{name}_sum"] > 0


def test_llama_servers_names(checkpoint):
    model = open_model(checkpoint)
    with Server(model) as server:
        for _ in range(2):
            server.post("/completion", {"prompt": "abc", "n_predict": 7, "ignore_eos": True})
        found = samples(server)
        text = server.get("/metrics").body.decode()
    model.close()
    assert found["llamacpp:prompt_tokens_total"] == 6 and found["llamacpp:tokens_predicted_total"] == 14
    assert found["llamacpp:n_decode_total"] == 14 and found["llamacpp:n_busy_slots_per_decode"] == 1
    assert found["llamacpp:requests_processing"] == found["llamacpp:requests_deferred"] == 0
    seconds = found["llamacpp:prompt_seconds_total"], found["llamacpp:tokens_predicted_seconds_total"]
    assert min(seconds) > 0
    assert found["llamacpp:prompt_tokens_seconds"] == 6 / seconds[0]
    assert found["llamacpp:predicted_tokens_seconds"] == 14 / seconds[1]
    assert "# TYPE llamacpp:prompt_tokens_total counter" in text


def test_a_failed_request_is_counted(checkpoint, monkeypatch):
    model = open_model(checkpoint)
    with Server(model) as server:
        monkeypatch.setattr(model.model.executor, "run", lambda batch: 1 // 0)
        assert server.post("/generate", {"inputs": "a"}).status >= 400
        monkeypatch.undo()
        text = server.get("/metrics").body.decode()
    model.close()
    for name, value in (("count", 1), ("success", 0), ("failure", 1)):
        assert f'\ntgi_request_{name}{{model_name="tiny"}} {value}.0\n' in text


def test_health_ready_version_and_load(server):
    assert b"is running" in server.get("/").body and server.request("HEAD", "/").status == 200
    for path in ("/health", "/healthz", "/ready", "/readyz", "/live", "/livez", "/ping"):
        assert server.get(path).json == {"status": "ok"}
    assert isinstance(server.get("/version").json["version"], str)
    assert server.get("/load").json["kv_blocks_used"] == 0


def test_the_watchdog(server, monkeypatch):
    monkeypatch.setattr(type(server.llm), "stalled_for", property(lambda self: 1e6))
    answer = server.get("/health")
    assert answer.status == 503 and NAME in answer.error["message"]


def test_request_ids_come_back_and_cannot_be_forged(server):
    assert server.get("/version", X_Request_Id="abc-1").headers["x-request-id"] == "abc-1"
    assert server.get("/version", X_Request_Id="a b<script>").headers["x-request-id"] != "a b<script>"
    found = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "request_id": "mine"})
    assert found.json["id"] == "cmpl-mine"


def test_tokens_there_and_back(server):
    found = server.post("/tokenize", {"prompt": "héé", "return_token_strs": True}).json
    assert found["count"] == 5 and found["tokens"] == [104, 195, 169, 195, 169] and len(found["token_strs"]) == 5
    assert server.post("/detokenize", {"tokens": found["tokens"]}).json["prompt"] == "héé"
    chat = server.post("/tokenize", {"messages": [{"role": "user", "content": "x"}]}).json
    assert chat["tokens"][0] == 258
    assert server.post("/tokenize", {}).status == 400
    assert server.post("/detokenize", {"tokens": [10**9]}).status == 400


def test_vllms_additions(server):
    body = {"prompt": "abc", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    found = server.post("/v1/completions", {**body, "return_token_ids": True, "prompt_logprobs": 1}).json
    choice = found["choices"][0]
    assert choice["prompt_token_ids"] == [97, 98, 99] and len(choice["token_ids"]) == 4
    assert choice["prompt_logprobs"][0] is None and "98" in choice["prompt_logprobs"][1]
    cut = server.post("/v1/completions", {**body, "truncate_prompt_tokens": 2, "return_token_ids": True}).json
    assert cut["choices"][0]["prompt_token_ids"] == [98, 99]
    only = server.post("/v1/completions", {**body, "allowed_token_ids": [65]}).json
    assert only["choices"][0]["text"] == "AAAA"
    names = server.post("/v1/completions", {**body, "logprobs": 0, "return_tokens_as_token_ids": True}).json
    assert names["choices"][0]["logprobs"]["tokens"][0].startswith("token_id:")
    chat = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "so"}], "max_tokens": 3}
    more = {**chat, "continue_final_message": True, "add_generation_prompt": False, "echo": True}
    found = server.post("/v1/chat/completions", more).json
    assert found["choices"][0]["message"]["content"].startswith("so")
    salted = server.post("/v1/completions", {"prompt": "s" * 64, "max_tokens": 1, "cache_salt": "a"}).json
    other = server.post("/v1/completions", {"prompt": "s" * 64, "max_tokens": 1, "cache_salt": "b"}).json
    assert salted["usage"]["prompt_tokens_details"] == other["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_times_of_a_request_on_demand(server):
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "ignore_eos": True, "return_metrics": True}
    found = server.post("/v1/chat/completions", chat).json["metrics"]
    assert 0 <= found["queue_time"] <= found["time_to_first_token"]
    assert 0 < found["inter_token_latency_p50"] <= found["inter_token_latency_p99"]
    stream = {**chat, "stream": True, "stream_options": {"include_usage": True}}
    assert server.post("/v1/chat/completions", stream).events[-1]["metrics"]["preemptions"] == 0
    body = {"prompt": "a", "max_tokens": 2, "return_metrics": True}
    assert server.post("/v1/completions", body).json["metrics"]["cached_tokens"] == 0
