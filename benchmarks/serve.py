"""What the server adds to the engine: the same requests offline and as 1 and 32 concurrent streams, in turns.

    python -m benchmarks.serve [--model DIR] [--streams 32] [--tokens 128] [--rounds 9] [--threads N] [--out FILE]

Offline is the engine's own loop in the engine's own thread, in the same process and on the same memory; the client is
a process of its own that does no more than count. Reported are the best round of each, their ratio, the time that the
server adds per streamed token, and the processor time of the event loop's thread per token, which depends less than the
others on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import selectors
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from penstock import AsyncLLM, RequestOutputKind, SamplingParams
from penstock.server.options import ServerOptions
from penstock.server.run import address, bind, make_server, run_until_done
from penstock.server.state import make_state

CLIENT = "import sys; from benchmarks.serve import client; client(int(sys.argv[1]))"
PROMPT = 16


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="default: the embedded model")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="of the engine; 0: all cores")
    parser.add_argument("--profile", action="store_true", help="print what the event loop's thread does")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def prompts(count: int, seed: int) -> list[list[int]]:
    dice = random.Random(seed)
    return [[dice.randint(300, 3900) for _ in range(PROMPT)] for _ in range(count)]


def client(port: int) -> None:
    """Reads jobs ``{"prompts": …, "tokens": n}`` as JSON lines; answers ``{"seconds": s, "events": n}``."""
    for line in sys.stdin:
        job = json.loads(line)
        selector, left, events = selectors.DefaultSelector(), len(job["prompts"]), 0
        began = time.perf_counter()
        for prompt in job["prompts"]:
            body = json.dumps({
                "prompt": prompt, "max_tokens": job["tokens"], "ignore_eos": True, "temperature": 0, "stream": True,
            }).encode()  # fmt: skip
            one = socket.create_connection(("127.0.0.1", port))
            one.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            one.setblocking(False)
            selector.register(one, selectors.EVENT_READ)
        while left:
            for key, _ in selector.select():
                found = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                events += found.count(b"data: {")
                if not found:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
                    left -= 1
        print(json.dumps({"seconds": time.perf_counter() - began, "events": events}), flush=True)


class Bench:
    """A model, a server for it in a thread, and a client in a process."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        bare = args.model is not None and not (Path(args.model) / "tokenizer.json").exists()
        self.llm = AsyncLLM(
            args.model, threads=args.threads, max_model_len=1024, enable_prefix_caching=False,
            max_num_seqs=max(32, args.streams), skip_tokenizer_init=bare,
        )  # fmt: skip
        self.state = make_state({self.llm.model.name: self.llm}, ServerOptions(log_requests=False))
        listener = bind("127.0.0.1", 0)
        started = threading.Event()
        self.server = make_server(self.state, started.set)
        self.thread = threading.Thread(target=self._serve, args=(listener,))
        self.thread.start()
        started.wait()
        port = address(listener).rpartition(":")[2]
        self.loop_clock = time.pthread_getcpuclockid(self.thread.ident or 0)
        self.client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _serve(self, listener: socket.socket) -> None:
        if not self.args.profile:
            run_until_done(self.server.serve(sockets=[listener]))
            return
        import cProfile
        import pstats

        with cProfile.Profile() as profile:
            run_until_done(self.server.serve(sockets=[listener]))
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)

    def offline(self, many: list[list[int]], tokens: int) -> float:
        """Seconds of the engine's own loop."""
        frontend = self.llm.frontend
        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA
        )

        def run() -> float:
            began = time.perf_counter()
            for i, prompt in enumerate(many):
                frontend.add(f"offline-{began}-{i}", frontend.encode(prompt), params)
            while frontend.num_live:
                frontend.step()
            return time.perf_counter() - began

        return float(asyncio.run(self.llm.call(run)))

    def served(self, many: list[list[int]], tokens: int) -> float:
        """Seconds until the client has the last byte of the last stream."""
        assert self.client.stdin is not None and self.client.stdout is not None
        self.client.stdin.write(json.dumps({"prompts": many, "tokens": tokens}) + "\n")
        self.client.stdin.flush()
        return float(json.loads(self.client.stdout.readline())["seconds"])

    def close(self) -> None:
        assert self.client.stdin is not None
        self.client.stdin.close()
        self.client.wait()
        self.server.should_exit = True
        self.thread.join()
        self.llm.close()


def measure(bench: Bench, streams: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Rates of the steady part: a run of ``tokens`` less one of a quarter of it, each the best of ``rounds``."""
    times: dict[str, list[float]] = {"offline": [], "offline short": [], "served": [], "served short": []}
    cpu: dict[int, list[float]] = {tokens: [], tokens // 4: []}
    for round_ in range(rounds):
        many = prompts(streams, round_)
        for name, run in (("offline", bench.offline), ("served", bench.served)):
            for length in (tokens // 4, tokens):
                before = time.clock_gettime(bench.loop_clock)
                times[name if length == tokens else f"{name} short"].append(run(many, length))
                if name == "served":
                    cpu[length].append(time.clock_gettime(bench.loop_clock) - before)
    best = {name: min(each) for name, each in times.items()}
    count = streams * (tokens - tokens // 4)
    steady = {name: best[name] - best[f"{name} short"] for name in ("offline", "served")}
    return {
        "streams": streams,
        "tokens": tokens,
        "offline_tokens_per_s": count / steady["offline"],
        "served_tokens_per_s": count / steady["served"],
        "throughput_ratio": steady["offline"] / steady["served"],
        "whole_ratio": best["offline"] / best["served"],
        "added_ms_per_token": (steady["served"] - steady["offline"]) / count * 1e3,
        "loop_cpu_ms_per_token": (min(cpu[tokens]) - min(cpu[tokens // 4])) / count * 1e3,
        "seconds": times,
    }


def main() -> None:
    args = arguments()
    bench = Bench(args)
    try:
        bench.offline(prompts(args.streams, -1), 8)
        bench.served(prompts(args.streams, -1), 8)
        found = [measure(bench, n, args.tokens, args.rounds) for n in dict.fromkeys((1, args.streams))]
    finally:
        bench.close()
    for each in found:
        print(
            f"{each['streams']:3} streams: offline {each['offline_tokens_per_s']:9.1f} tok/s, served "
            f"{each['served_tokens_per_s']:9.1f} tok/s, ratio {each['throughput_ratio']:.3f} (with the start "
            f"{each['whole_ratio']:.3f}), added {each['added_ms_per_token']:+.4f} ms per token, "
            f"event loop {each['loop_cpu_ms_per_token']:.4f} ms of processor per token"
        )
    if args.out:
        result = {"model": args.model.name if args.model else "embedded", "threads": args.threads, "runs": found}
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
