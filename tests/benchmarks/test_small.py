"""The plain C loop says what penstock says: else the two are not compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import small
from penstock import LLM
from penstock.assemble import EMBEDDED


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_loop_and_penstock_say_the_same_tokens(tmp_path: Path) -> None:
    small.build(tmp_path / "loop")
    small.dump(EMBEDDED, tmp_path / "weights")
    tokens, took = small.plain(tmp_path / "loop", tmp_path / "weights", 12)
    assert took > 0
    with LLM(str(EMBEDDED), dtype="float32", threads=1, skip_tokenizer_init=True) as llm:
        assert small.generated(llm, 12)[0] == tokens


def test_another_family_is_refused(tmp_path: Path) -> None:
    config = json.loads((EMBEDDED / "config.json").read_text()) | {"model_type": "qwen2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="Llama with tied embeddings only"):
        small.dump(tmp_path, tmp_path / "weights")
