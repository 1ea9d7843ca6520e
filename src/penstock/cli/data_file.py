"""Files of prompts and of answers, a JSON object a line, as PaddleNLP's predictor has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from penstock.cli.prompts import read_file
from penstock.errors import ConfigError
from penstock.types import RequestOutput

KEYS = ("src", "prompt", "text")
Row = tuple[str, Mapping[str, Any]]


def read_rows(name: str) -> list[Row]:
    """(prompt, the object it stands in) of each line, or of each item where the file is one JSON list.

    Raises ``ConfigError`` that names the line at fault.
    """
    text = read_file(name, "the data file")
    try:
        items = json.loads(text) if text.lstrip().startswith("[") else None
    except ValueError as error:
        raise ConfigError(f"{name} is not JSON: {error}") from None
    if items is None:
        items = [_line(name, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not items:
        raise ConfigError(f'{name} holds no prompt: give a JSON object a line, such as {{"src": "你好"}}')
    return [_row(name, number, item) for number, item in enumerate(items, 1)]


def plain_rows(texts: Sequence[str]) -> list[Row]:
    """Prompts that came from elsewhere."""
    return [(text, {"src": text}) for text in texts]


def _line(name: str, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{name}, line {number} is not JSON: {error}") from None


def _row(name: str, number: int, item: Any) -> Row:
    key = next((key for key in KEYS if key in item), None) if isinstance(item, dict) else None
    if key is None:
        raise ConfigError(f"{name}, item {number} is no JSON object with a text under {', '.join(KEYS)}")
    source = item[key]
    if isinstance(source, list) and len(source) == 1:
        source = source[0]
    if not isinstance(source, str):
        raise ConfigError(f"{name}, item {number}: '{key}' must be a text, got {type(source).__name__}")
    return source, item


@contextmanager
def results(name: str | None) -> Iterator[TextIO | None]:
    """The file that answers go to. It is opened before anything is computed, so that a wrong name costs nothing."""
    if name is None:
        yield None
        return
    try:
        file = Path(name).expanduser().open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the output file {name}: {error.strerror}") from None
    with file:
        yield file


def record(row: Mapping[str, Any], output: RequestOutput) -> str:
    """``row`` with its answer under ``output`` (a list, where several were asked for), as a line."""
    texts = [a.text if output.prompt is not None else " ".join(map(str, a.token_ids)) for a in output.outputs]
    return json.dumps({**row, "output": texts[0] if len(texts) == 1 else texts}, ensure_ascii=False) + "\n"
