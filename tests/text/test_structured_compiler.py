"""The compiler of grammars: its trial process, what it keeps, threads that share it, and what is missing."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from penstock.errors import ExecutionError, MissingDependencyError, OverloadedError, RequestError
from penstock.text.structured import GrammarCompiler, compiler
from penstock.text.structured.trial import Trial
from penstock.types import StructuredOutputs
from tests.text import vocabularies
from tests.text.grammars import Opened, chain

pytest.importorskip("llguidance", reason="llguidance (the extra 'structured') is not installed")


def test_a_grammar_that_takes_too_long_is_killed_and_the_next_is_served() -> None:
    trial = Trial(seconds=0.5)
    slow = "root ::= " + " ".join(['("a" | "b")*'] * 15_000)
    try:
        assert trial.run("regex", "a", {})
        with pytest.raises(ValueError, match=r"more than 0\.5 s"):
            trial.run("grammar", slow, {})
        assert trial.run("regex", "b", {})
        assert trial._process is not None
        trial._process.kill()
        assert trial.run("regex", "c", {}), "a process that has gone is started again"
    finally:
        trial.close()
    assert trial._process is None


def test_a_grammar_that_breaks_the_compiler_breaks_only_the_trial() -> None:
    trial = Trial()
    try:
        with pytest.raises(ValueError, match="memory, or the compiler failed"):
            trial.run("json", json.dumps(chain(15_000)), {})
        assert trial.run("regex", "b", {})
    finally:
        trial.close()


def test_compiled_grammars_are_kept_within_bounds(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "KEPT", 5)
    for i in range(12):
        opened(choice=[f"{i}"])
    assert opened.compiler.kept[0] == 5
    monkeypatch.setattr(compiler, "KEPT_BYTES", 200_000)
    opened(choice=["a"])
    count, size = opened.compiler.kept
    assert count < 5
    assert size <= 200_000


def test_a_worn_grammar_is_compiled_again(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    # Copies share an automaton of bounded size: left alone, the answers of one request would use up another's.
    monkeypatch.setattr(compiler, "WORN_TOKENS", 10)
    first = opened(regex="(a|b)*a(a|b){40}c")
    a = opened.ids("a")[0]
    for _ in range(12):
        first.accept(a)
    second = opened(regex="(a|b)*a(a|b){40}c")
    assert second._usage is not first._usage
    first.accept(a)
    second.accept(a)


def test_threads_may_share_a_compiler(opened: Opened) -> None:
    found: list[str | None] = []

    def work(seed: int) -> None:
        found.append(opened.say(seed, choice=["x", "y"]))
        found.append(opened.say(seed, regex=f"[{seed}-9]"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert all(text is not None and re.fullmatch("[xy0-9]", text) for text in found)


def test_the_same_grammar_is_tried_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    run = opened.compiler._trial.run

    def counted(kind: str, source: str, options: Mapping[str, Any]) -> str:
        tried.append(source)
        return run(kind, source, options)

    monkeypatch.setattr(opened.compiler._trial, "run", counted)
    threads = [threading.Thread(target=opened, kwargs={"regex": "q{7}"}) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tried == ["q{7}"]


def test_a_queue_of_grammars_is_bounded_in_time(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "WAIT_SECONDS", 0.01)
    with opened.compiler._turn, pytest.raises(OverloadedError, match="wait to be compiled"):
        opened(regex="q{8}")


def test_a_process_that_does_not_start_is_no_fault_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ExecutionError, match="cannot be started"):
        Trial().run("regex", "a", {})


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = vocabularies.real("stories")
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=r"penstock\[structured\]"):
        GrammarCompiler(tokenizer, tokenizer.vocab_size, [2]).compile(StructuredOutputs(regex="a"))


def test_without_an_end_token_nothing_can_be_constrained() -> None:
    tokenizer = vocabularies.real("stories")
    with pytest.raises(RequestError, match="ends an answer"):
        GrammarCompiler(tokenizer, tokenizer.vocab_size, []).compile(StructuredOutputs(regex="a"))
