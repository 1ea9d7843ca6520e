"""lm-eval's ``local-completions`` against the server gives the score that the model gives offline, to the last bit.

Optional: ``pip install 'lm-eval[api]'`` (some 300 MB), then ``scripts/test -m slow tests/server/test_lm_eval.py``.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from penstock import LLM, AsyncLLM, SamplingParams
from penstock.assemble import EMBEDDED
from tests.server.harness import Server

pytestmark = [
    pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("default::pytest.PytestUnhandledThreadExceptionWarning"),
]  # fmt: skip
lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm-eval[api]'")

CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "China": "Beijing",
    "Egypt": "Cairo", "Greece": "Athens", "Russia": "Moscow", "Norway": "Oslo", "Sweden": "Stockholm", "Cuba": "Havana",
}  # fmt: skip
CHOICES = """
task: penstock_capitals
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{country}} is"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
target_delimiter: " "
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """
task: penstock_stories
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{story}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    names = list(CAPITALS)
    rows = []
    for i, country in enumerate(names):
        choices = [CAPITALS[names[(i + k) % len(names)]] for k in (0, 3, 5, 7)]
        choices = choices[i % 4 :] + choices[: i % 4]
        story = f"Once upon a time there was a child in {CAPITALS[country]}. " + "The child liked to read. " * (1 + i)
        label = choices.index(CAPITALS[country])
        rows.append({"country": country, "choices": choices, "label": label, "story": story})
    data = folder / "data.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("capitals", CHOICES), ("stories", ROLLING)):
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    return folder


def library(name: str) -> Any:
    return import_module(f"lm_eval.{name}")


def evaluate(model: Any, tasks: Path, monkeypatch, **options: Any) -> dict[str, Any]:
    manager = library("tasks").TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model, tasks=["penstock_capitals", "penstock_stories"], task_manager=manager, bootstrap_iters=0,
        log_samples=True, **options,
    )  # fmt: skip
    scores = {
        task: {k: v for k, v in values.items() if isinstance(v, float)} for task, values in found["results"].items()
    }
    samples = {
        task: [sample["resps"] for sample in sorted(many, key=lambda s: s["doc_id"])]
        for task, many in found["samples"].items()
    }
    return {"scores": scores, "samples": json.loads(json.dumps(samples))}


def offline(llm: LLM, tokenizer: Any) -> Any:
    base: Any = library("api.model").TemplateLM
    utils = library("utils")

    class Offline(base):  # type: ignore[misc]
        """The same windows of tokens as the client's, scored by ``LLM.generate``."""

        eot_token_id = tokenizer.eos_token_id
        tokenizer_name = "penstock"

        def tok_encode(self, string: str, **_: Any) -> list[int]:
            return tokenizer.encode(string, add_special_tokens=False)

        def score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
            ids = context + continuation
            params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1)
            scores: Any = llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)[0].prompt_logprobs
            chosen = [scores[i][ids[i]] for i in range(len(context), len(ids))]
            return sum(s.logprob for s in chosen), all(s.rank == 1 for s in chosen)

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return [self.score(context, continuation) for _, context, continuation in requests]

        def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
            found = []
            for request in requests:
                windows = utils.get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=WINDOW - 2,  # the client keeps room for a token before and one after
                    context_len=1,
                )
                found.append(sum(self.score(*utils.make_disjoint_window(w))[0] for w in windows))
            return found

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            raise NotImplementedError

    return Offline()


WINDOW = 64


def test_the_same_score_served_and_offline(tasks, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    place = str(EMBEDDED)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    with LLM(place, threads=1) as llm:
        alone = evaluate(offline(llm, tokenizer), tasks, monkeypatch)
    model = AsyncLLM(place, threads=1)
    with Server(model) as server:
        arguments = {
            "model": model.model.name, "base_url": f"{server.url}/v1/completions", "tokenizer": place,
            "tokenizer_backend": "huggingface", "tokenized_requests": True, "num_concurrent": 4, "batch_size": 4,
            "max_length": WINDOW, "max_retries": 1,
        }  # fmt: skip
        served = evaluate("local-completions", tasks, monkeypatch, model_args=arguments)
    model.close()
    print(json.dumps(served["scores"]))
    assert served["samples"] == alone["samples"]
    assert served["scores"] == alone["scores"]
    assert served["scores"]["penstock_capitals"]["acc,none"] > 0.5
