"""The child process that tries a grammar first: what never ends or takes all memory dies here and not in the engine.

Run as a script; it says ``ready`` when it is. Each line on standard input is ``{"kind", "source", "options"}``; the
answer is a line with ``{"grammar": text}`` for the compiler or ``{"error": reason}``. Ends when its input does, or
after a minute without work. Imports nothing of penstock, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import sys
from typing import Any

MEMORY = 3 << 30
STACK = 4 << 20  # half of what threads have: what recurses too deeply must fail here
IDLE_SECONDS = 60.0
WALKS = 2
STEPS = 48
BYTES = 256
LIMITS: dict[str, Any] = {
    "max_items_in_row": 10_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}


def grammar(llguidance: Any, kind: str, source: str, options: dict[str, Any]) -> str:
    """The source in the language of the compiler. Raises ``ValueError`` with the reason."""
    matcher = llguidance.LLMatcher
    if kind == "json":
        return str(matcher.grammar_from_json_schema(source, overrides=options))
    if kind == "structural_tag":
        given = json.loads(source)
        tags = [
            llguidance.StructTag(trigger=s["trigger"], begin=s["begin"], grammar=s["schema"], end=s["end"])
            for s in given
        ]
        return str(llguidance.StructTag.to_grammar(tags, assume_special=False))
    if kind == "choice":
        texts = (json.dumps(text, ensure_ascii=False) for text in json.loads(source))
        return str(matcher.grammar_from_lark("start: " + " | ".join(texts)))
    return str(llguidance.grammar_from(kind, source))


def attempt(llguidance: Any, tokenizer: Any, kind: str, source: str, options: dict[str, Any]) -> dict[str, str]:
    """Compile, and follow the grammar a little way, over a vocabulary of bytes."""
    try:
        text = grammar(llguidance, kind, source, options)
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError, IndexError) as error:
        return {"error": str(error) or type(error).__name__}
    limits = llguidance.LLParserLimits(**LIMITS)
    matcher = llguidance.LLMatcher(tokenizer, text, log_level=0, limits=limits)
    problem = str(matcher.get_error())
    for seed in range(WALKS):
        problem = problem or walk(matcher.deep_copy(), random.Random(seed))
    return {"error": problem} if problem else {"grammar": text}


def walk(matcher: Any, rng: random.Random) -> str:
    """Take allowed bytes at random, ``STEPS`` at most; the error if one comes up."""
    for _ in range(STEPS):
        mask = matcher.compute_bitmask()
        allowed = [i for i in range(BYTES) if mask[i // 8] >> i % 8 & 1]
        if matcher.is_error() or not allowed:
            break
        matcher.consume_token(rng.choice(allowed))
    return str(matcher.get_error())


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    import llguidance

    tokenizer = llguidance.LLTokenizer("byte")
    stdin = sys.stdin.buffer
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while select.select([stdin], [], [], IDLE_SECONDS)[0]:
        line = stdin.readline()
        if not line:
            return
        asked = json.loads(line)
        answer = attempt(llguidance, tokenizer, asked["kind"], asked["source"], asked["options"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
