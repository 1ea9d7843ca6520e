"""What a checkpoint brings as code is never run, whatever its configuration asks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock import LLM, SamplingParams
from tests import tiny
from tests.llm.conftest import OPTIONS

CLASSES = {
    "AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel",
    "AutoTokenizer": ["tokenization_own.OwnTokenizer", None],
}  # fmt: skip


@pytest.mark.parametrize("trusting", [False, True])
def test_python_files_of_a_checkpoint_stay_unread(tmp_path: Path, trusting: bool, monkeypatch) -> None:
    model = tiny.make(tmp_path / "model")
    canary = tmp_path / "canary"
    for name in ("configuration_own", "modeling_own", "tokenization_own", "sitecustomize", "conftest"):
        (model / f"{name}.py").write_text(f"open({str(canary)!r}, 'w').write('ran')\n")
    for name in ("config.json", "tokenizer_config.json"):
        file = model / name
        found = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**found, "auto_map": CLASSES}))
    monkeypatch.chdir(model)  # nor because it is where we are
    options = {**OPTIONS, "trust_remote_code": True} if trusting else OPTIONS
    with LLM(model, **options) as llm:
        assert llm.generate("hello", SamplingParams(max_tokens=2, ignore_eos=True))[0].outputs[0].token_ids
    assert not canary.exists()
