"""``penstock generate``: prompts in, text out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from penstock.cli import sampling
from penstock.cli.data_file import Row, plain_rows, read_rows, record, results
from penstock.cli.load import adapter_option, load, take_adapter
from penstock.cli.options import engine_options
from penstock.cli.other_clients import other_clients
from penstock.cli.parser import Parser, whole
from penstock.cli.prompts import encode, read_prompts, shortened
from penstock.cli.stats import Stats, measure
from penstock.cli.terminal import style, visible, write

if TYPE_CHECKING:
    from penstock.cli.profile import Profile
    from penstock.engine.engine import Engine
    from penstock.frontend import Prompt
    from penstock.llm import LLM
    from penstock.types import RequestOutput, SamplingParams

MAX_TOKENS = 256
EXAMPLES = (
    'penstock generate "The capital of France is"',
    'penstock generate --chat "浙江的省会在哪里?" --temperature 0 --stats',
    "penstock generate -m ./Llama-3.2-1B -n 100 --prompt-file story.txt",
    'echo "One, two," | penstock generate --json | jq -r ".outputs[0].text"',
)
NOTES = """
Every engine option can also be set in the environment: --max-model-len as PENSTOCK_MAX_MODEL_LEN, and so on.
Text goes to stdout, everything else to stderr.
"""


def parser() -> Parser:
    made = Parser("generate", "Complete prompts. One prompt streams; several are computed together.", EXAMPLES, NOTES)
    made.add_argument("prompts", nargs="*", metavar="PROMPT", default=[], help="text to complete; - reads stdin")
    made.option("prompt", "the same as PROMPT", short="-p", action="append", metavar="TEXT")
    made.option("prompt_file", "a file with one prompt; may be repeated", short="-f", synonyms=("file",),
                action="append", metavar="FILE")  # fmt: skip
    made.option("data_file", "a file of prompts: a JSON object a line, each with a text under src, prompt or text",
                metavar="FILE")  # fmt: skip
    made.option("output_file", "where results go, a JSON object a line (default: stdout)", metavar="FILE")
    made.option("src_length", "most tokens of a prompt; longer ones lose their beginning", type=whole, metavar="N",
                synonyms=("truncate-prompt-tokens",))  # fmt: skip
    made.switch("chat", "ask each prompt as a user's message, through the chat template")
    made.option("system", "system prompt (with --chat)", synonyms=("system-prompt", "-sys"), metavar="TEXT")
    made.switch("echo", "put the prompt before its text")
    made.switch("json", "one JSON object a prompt, with token ids and figures")
    made.option("stats", "figures at the end, on stderr: --stats, or --stats=en|zh|both", bare="auto",
                choices=("auto", "en", "zh", "both"), metavar="[LANGUAGE]")  # fmt: skip
    made.switch(
        "profile",
        "time, bytes, flops and share of the machine's measured limit of each kind of op, on stderr (runs op by op)",
    )
    made.option("dump_values", "shape, range and first numbers of what ops put out, e.g. 'layers.0.*', on stderr "
                "(runs op by op); may be repeated", action="append", metavar="NAME,…")  # fmt: skip
    made.switch("quiet", "no start-up table, no progress", short="-q", synonyms=("silent",))
    sampling.sampling_options(made)
    adapter_option(made)
    engine_options(made, leave_out=("seed", "served_model_name", "max_waiting"))
    other_clients(made)
    return made


def run(argv: Sequence[str]) -> int:
    args = parser().read(argv)
    take_adapter(args)
    sampling.check(args)
    rows = read_rows(args.data_file) if hasattr(args, "data_file") else plain_rows(read_prompts(args))
    texts = [text for text, _ in rows]
    with results(getattr(args, "output_file", None)) as file, load(args) as llm:
        chat, system = getattr(args, "chat", False), getattr(args, "system", None)
        cut = hasattr(args, "src_length")
        prompts = [encode(llm, text, chat=chat, system=system, bounded=not cut) for text in texts]
        if cut:
            prompts = [shortened(prompt, args.src_length) for prompt in prompts]
        params = [_params(args, llm, prompt) for prompt in prompts]
        profile = _watched(args, llm.model.engine)
        if file is not None or hasattr(args, "data_file"):
            figures = _rows(args, llm, rows, prompts, params, file)
        else:
            figures = _generate(args, llm, texts, prompts, params)
        if profile is not None:
            print("\n".join(profile.lines()), file=sys.stderr)
        if hasattr(args, "stats"):
            print("\n".join(figures.lines(args.stats)), file=sys.stderr)
    return 0


def _watched(args: argparse.Namespace, engine: Engine) -> Profile | None:
    """Set up what ``--profile`` and ``--dump-values`` ask for; the profile, to be printed at the end."""
    from penstock.cli.dump import Dump
    from penstock.cli.profile import Profile, probe
    from penstock.cli.watch import Watcher, watch

    profile = Profile(engine.executor, probe(engine.executor)) if getattr(args, "profile", False) else None
    watchers: list[Watcher] = [profile] if profile is not None else []
    names = [name for each in getattr(args, "dump_values", []) for name in each.split(",") if name]
    if names:
        watchers.append(Dump(engine.executor.program, names, lambda line: print(line, file=sys.stderr)))
    if watchers:
        watch(engine, watchers)
    return profile


def _params(args: argparse.Namespace, llm: LLM, prompt: Prompt) -> SamplingParams:
    from penstock.cli.running import fit

    made = sampling.params(args, llm.default_sampling_params(), MAX_TOKENS)
    return fit(made, prompt, llm.model.max_model_len, asked=hasattr(args, "max_tokens"))


def _generate(
    args: argparse.Namespace, llm: LLM, texts: list[str], prompts: list[Prompt], params: list[SamplingParams]
) -> Stats:
    from penstock.cli.running import run_all

    as_json = getattr(args, "json", False)
    if len(prompts) == 1 and params[0].n == 1 and not as_json:
        return _stream(llm, texts[0] if getattr(args, "echo", False) else "", prompts[0], params[0], args.adapter)
    outputs = []
    for text, output in zip(texts, run_all(llm, prompts, params, args.adapter)):
        if as_json:
            write(json.dumps(_record(llm, text, output), ensure_ascii=False) + "\n")
        else:
            _show(text, output, alone=len(prompts) == 1, echo=getattr(args, "echo", False))
        outputs.append(output)
    return measure(outputs)


def _rows(
    args: argparse.Namespace, llm: LLM, rows: list[Row], prompts: list[Prompt], params: list[SamplingParams],
    file: TextIO | None,
) -> Stats:  # fmt: skip
    """Answers as lines of a file, or of stdout, as they come."""
    from penstock.cli.running import run_all

    outputs = []
    for (_, row), output in zip(rows, run_all(llm, prompts, params, args.adapter)):
        line = record(row, output)
        if file is None:
            write(line)
        else:
            file.write(line)
            file.flush()
        outputs.append(output)
    return measure(outputs)


def _stream(llm: LLM, lead: str, prompt: Prompt, params: SamplingParams, adapter: str | None) -> Stats:
    from penstock.cli.running import stream

    shown = _shown(lead)
    write(style(shown, "dim", sys.stdout) if shown else "")
    count = 0
    for output in stream(llm, prompt, params, adapter=adapter):
        answer = output.outputs[0]
        count += len(answer.token_ids)
        text = answer.text
        if llm.model.tokenizer is None:
            text = "".join(f"{token} " for token in answer.token_ids)
        write(_shown(text))
        shown = text or shown
    if not shown.endswith("\n"):
        write("\n")
    return measure([output], count)


def _show(text: str, output: RequestOutput, alone: bool, echo: bool) -> None:
    """Several results, each under a line that says what it belongs to."""
    for answer in output.outputs:
        name = text if len(text) <= 60 else text[:59] + "…"
        number = f" [{answer.index + 1}]" if len(output.outputs) > 1 else ""
        body = answer.text or (" ".join(map(str, answer.token_ids)) if output.prompt is None else "")
        head = f"==>{number} <==" if alone else f"==> {' '.join(name.split())}{number} <=="
        write(f"{style(_shown(head), 'bold', sys.stdout)}\n{_shown(text if echo else '')}{_shown(body)}\n")


def _record(llm: LLM, text: str, output: RequestOutput) -> dict[str, Any]:
    figures = measure([output])
    answers = []
    for answer in output.outputs:
        record: dict[str, Any] = {
            "index": answer.index, "text": answer.text, "token_ids": list(map(int, answer.token_ids)),
            "finish_reason": answer.finish_reason, "stop_reason": answer.stop_reason,
        }  # fmt: skip
        if answer.logprobs is not None:
            record["logprobs"] = [
                {str(t): {"logprob": p.logprob, "rank": p.rank, "text": p.decoded_token} for t, p in place.items()}
                for place in answer.logprobs
            ]
        answers.append(record)
    return {
        "model": llm.model.name, "prompt": text, "outputs": answers,
        "usage": {"prompt_tokens": figures.input_tokens, "completion_tokens": figures.output_tokens,
                  "cached_tokens": figures.cached_tokens},
        "seconds": round(figures.seconds, 6), "tokens_per_second": round(figures.speed, 3),
        "ttft": None if figures.ttft is None else round(figures.ttft, 6),
    }  # fmt: skip


def _shown(text: str) -> str:
    """A terminal is not to be driven by what a model writes; a file gets it as it is."""
    return visible(text) if sys.stdout.isatty() else text
