"""``penstock merge``: a LoRA adapter merged into its base model, as a checkpoint of its own."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.cli.parser import Parser
from penstock.cli.terminal import write
from penstock.errors import ConfigError
from penstock.progress import Progress

EXAMPLES = (
    "penstock merge ./Llama-3.2-1B ./my-lora -o ./merged",
    "penstock merge ./Qwen2.5-7B ./my-dora -o ./merged --dtype float32",
)


def parser() -> Parser:
    made = Parser("merge", "Merge a LoRA (or DoRA) adapter into its base model and write the result.", EXAMPLES)
    made.add_argument("base", metavar="BASE", help="folder of the base model, or its name on a hub")
    made.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter (adapter_config.json)")
    made.option("output", "new folder for the merged checkpoint", short="-o", synonyms=("out",), metavar="DIR")
    made.option("dtype", "type of the merged tensors: auto, float32, float16, bfloat16 (default: as the base has them)")
    made.switch("quiet", "no progress bar", short="-q")
    return made


def run(argv: Sequence[str]) -> int:
    args = parser().read(argv)
    if not getattr(args, "output", ""):
        raise ConfigError("where should the merged checkpoint go? give -o DIR")
    from penstock.toolchain.merge import merge

    bar: Progress | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or Progress(total, "tensors")
        bar.update(done)

    quiet = getattr(args, "quiet", False)
    try:
        made = merge(
            args.base, args.adapter, args.output, dtype=getattr(args, "dtype", "auto"),
            progress=None if quiet else progress,
        )  # fmt: skip
    finally:
        if bar is not None:
            bar.close()
    write(f"{made.folder}: {made.changed} of {made.total} tensors merged\n")
    return 0
