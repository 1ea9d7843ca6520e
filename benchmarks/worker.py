"""One engine in a process of its own: commands in as JSON lines, answers out. Lets engines take turns.

First line out: {"ready": true, "version": …, "weight_bytes": …} after one token was generated, or {"error": …}.
{"requests": [[[token ids], new tokens], …]}  ->  {"seconds": s, "tokens": n, "peak_mb": this process and its children}

With "prepare" in the spec the engine only converts its checkpoint. What engines print goes to stderr. Nothing is
imported but the standard library and the engine that is asked for.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def children() -> dict[int, list[int]]:
    """Processes by their parents."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        found.setdefault(parent, []).append(int(entry.name))
    return found


def tree(root: int) -> list[int]:
    """``root`` and all its descendants."""
    under, found = children(), [root]
    for pid in found:
        found += under.get(pid, [])
    return found


def peak_mb(root: int) -> float:
    """Sum of the largest memory that each process of a tree had, mapped files included."""
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return total * 1024 / 1e6


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    spec = json.loads(sys.argv[1])
    try:
        module = importlib.import_module(f"benchmarks.engines.{spec['engine']}")
        if spec.get("prepare"):
            module.prepare(spec)
            say({"ready": True})
            return
        engine = module.Engine(spec)
        engine.run([(spec["first"], 1)])
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise
    say({"ready": True, "version": engine.version, "weight_bytes": engine.weight_bytes})
    for line in sys.stdin:
        requests = [(ids, count) for ids, count in json.loads(line)["requests"]]
        start = time.perf_counter()
        try:
            tokens = engine.run(requests)
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})
            raise
        say({"seconds": time.perf_counter() - start, "tokens": tokens, "peak_mb": peak_mb(os.getpid())})


if __name__ == "__main__":
    main()
