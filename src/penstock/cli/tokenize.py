"""``penstock tokenize``: what a text is made of, without loading any weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.cli.options import engine_kwargs, engine_options
from penstock.cli.parser import Parser
from penstock.cli.prompts import read_prompts, token_ids
from penstock.cli.terminal import write
from penstock.errors import RequestError

if TYPE_CHECKING:
    from penstock.text.tokenizer import Tokenizer

EXAMPLES = (
    'penstock tokenize "Hello, world"',
    "penstock tokenize 你好 -m ./Qwen2.5-0.5B-Instruct --json",
    'penstock tokenize --decode "9906 11 1917" -m ./Llama-3.2-1B',
)
ONLY = ("model", "tokenizer", "revision", "download_dir")


def parser() -> Parser:
    from dataclasses import fields

    from penstock.cli.options import GROUPS

    made = Parser("tokenize", "Show the tokens of a text, or the text of tokens.", EXAMPLES)
    made.add_argument("prompts", nargs="*", metavar="TEXT", default=[], help="text; - reads stdin")
    made.option("prompt_file", "a file with the text", short="-f", synonyms=("file",), action="append", metavar="FILE")
    made.switch("decode", "the other way: TEXT is token ids")
    made.switch("add_special_tokens", "with the tokens that begin and end a prompt (default: on)")
    made.switch("count", "only the number of tokens")
    made.switch("json", "one JSON object a text")
    engine_options(made, leave_out=[f.name for cls in GROUPS.values() for f in fields(cls) if f.name not in ONLY])
    return made


def run(argv: Sequence[str]) -> int:
    args = parser().read(argv)
    texts = read_prompts(args)
    tokenizer = _tokenizer(engine_kwargs(args))
    special = getattr(args, "add_special_tokens", True)
    for text in texts:
        if getattr(args, "decode", False):
            ids = token_ids(text)
            if max(ids) >= tokenizer.vocab_size:
                raise RequestError(f"token {max(ids)} is outside the vocabulary of {tokenizer.vocab_size}")
            text = tokenizer.decode(ids, skip_special_tokens=not special)
        else:
            ids = tokenizer.encode_prompt(text, special)
        pieces = [tokenizer.token_text(token) for token in ids]
        if getattr(args, "count", False):
            write(f"{len(ids)}\n")
        elif getattr(args, "json", False):
            record = {"text": text, "count": len(ids), "token_ids": ids, "pieces": pieces}
            write(json.dumps(record, ensure_ascii=False) + "\n")
        elif getattr(args, "decode", False):
            write(text + "\n")
        else:
            write(
                "".join(f"{token:>8}  {json.dumps(piece, ensure_ascii=False)}\n" for token, piece in zip(ids, pieces))
            )
            write(f"{len(ids)} tokens\n")
    return 0


def _tokenizer(options: dict[str, str]) -> Tokenizer:
    """The tokenizer that ``LLM`` would take with these options."""
    from penstock.assemble import EMBEDDED
    from penstock.checkpoints.folder import locate
    from penstock.text.tokenizer import Tokenizer

    name = options.get("tokenizer") or options.get("model") or str(EMBEDDED)
    return Tokenizer.from_folder(locate(name, options.get("revision"), options.get("download_dir"), None))
