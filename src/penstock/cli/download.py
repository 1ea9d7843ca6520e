"""``penstock download``: a model, or one file of it, from a hub into its cache."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.cli.load import LoadProgress
from penstock.cli.parser import Parser
from penstock.cli.terminal import write
from penstock.errors import ConfigError

EXAMPLES = (
    "penstock download Qwen/Qwen2.5-0.5B-Instruct",
    "penstock download Qwen/Qwen2-7B-Instruct-GGUF qwen2-7b-instruct-q5_k_m.gguf",
    "PENSTOCK_USE_MODELSCOPE=1 penstock download qwen/Qwen2.5-0.5B-Instruct --revision master",
)
NOTES = """
Prints where the files are; what the cache has is not fetched again, and a download that broke off goes on.
HF_ENDPOINT names a mirror, HF_TOKEN opens private models, PENSTOCK_USE_MODELSCOPE=1 takes ModelScope's hub.
"""


def parser() -> Parser:
    made = Parser("download", "Fetch a model from a hub.", EXAMPLES, NOTES)
    made.add_argument("name", nargs="?", metavar="NAME", help="name of the model, such as Qwen/Qwen2.5-0.5B-Instruct")
    made.add_argument("path", nargs="?", metavar="FILE", help="one file of it only")
    made.option("model", "the same as NAME", short="-m", synonyms=("model-id", "model-name", "repo-id"), metavar="NAME")
    made.option("file", "the same as FILE", synonyms=("file-path", "filename"), metavar="FILE")
    made.option("revision", "branch, tag or commit", metavar="NAME")
    made.option("cache_dir", "where files are kept (default: the hub's own cache)",
                synonyms=("download-dir", "local-dir"), metavar="DIR")  # fmt: skip
    made.switch("quiet", "no progress", short="-q")
    return made


def run(argv: Sequence[str]) -> int:
    args = parser().read(argv)
    from penstock.checkpoints import hub

    name = getattr(args, "name", None) or getattr(args, "model", None)
    file = getattr(args, "path", None) or getattr(args, "file", None)
    if not name or not hub.looks_like_name(name):
        raise ConfigError(f"give the name of a model on a hub, such as Qwen/Qwen2.5-0.5B-Instruct, got {name!r}")
    revision, cache = getattr(args, "revision", None), getattr(args, "cache_dir", None)
    if file:
        found = hub.download_file(name, file, revision, cache)
    else:
        with LoadProgress(getattr(args, "quiet", False)) as progress:
            found = hub.download(name, revision, cache, lambda done, total: progress("download", done, total))
    write(f"{found}\n")
    return 0
