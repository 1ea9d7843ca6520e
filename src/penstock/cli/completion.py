"""``penstock completion``: a script that lets bash, zsh or fish complete commands, options and their values."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from penstock.cli.parser import Parser
from penstock.cli.terminal import write
from penstock.server.options import TOOL_FORMATS

SHELLS = ("bash", "zsh", "fish")
EXAMPLES = (
    "penstock completion bash > ~/.local/share/bash-completion/completions/penstock",
    "penstock completion zsh > ~/.zfunc/_penstock",
    "penstock completion fish > ~/.config/fish/completions/penstock.fish",
)
FILES = ("FILE", "DIR", "MODEL")
"""Metavars of options whose value is a path."""

DTYPES = ("auto", "float32", "float16", "bfloat16")
VALUES: dict[str, tuple[str, ...]] = {
    "dtype": DTYPES, "kv_cache_dtype": (*DTYPES, "int8"), "mode": ("static", "dynamic"),
    "tool_call_parser": TOOL_FORMATS,
    "executor": ("auto", "native", "torch"), "block_size": ("16", "32", "64", "128", "256"),
}  # fmt: skip
"""By option: values that its own check knows."""


@dataclass(frozen=True, slots=True)
class Flag:
    """``kind``: ``none`` takes no value, ``file`` a path, ``words`` one of ``words``, ``value`` anything."""

    names: tuple[str, ...]
    text: str
    kind: str
    words: tuple[str, ...] = ()


def parser() -> Parser:
    made = Parser("completion", "Print a completion script for a shell.", EXAMPLES)
    made.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")
    return made


def run(argv: Sequence[str]) -> int:
    shell = parser().read(argv).shell
    write({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands()))
    return 0


def commands() -> dict[str, tuple[str, list[Flag]]]:
    """Every command with what it does and its flags, as its parser has them."""
    from penstock.cli.main import COMMANDS

    found = {}
    for name, (module, text) in COMMANDS.items():
        make = getattr(importlib.import_module(module), "parser", None)
        found[name] = (_plain(text), list(_flags(make())) if make is not None else [])
    return found


def _flags(made: Parser) -> Iterator[Flag]:
    for action in made._actions:
        if not action.option_strings or action.help == argparse.SUPPRESS:
            continue
        names, text = tuple(action.option_strings), _plain(action.help or "")
        if action.option_strings[0] in made.switches:
            yield Flag(names, text, "none")
            yield Flag(("--no-" + names[0][2:],), text, "none")
        elif action.nargs == 0 or names[-1] in made.bare:
            yield Flag(names, text, "none")
        elif words := tuple(map(str, action.choices or VALUES.get(action.dest, ()))):
            yield Flag(names, text, "words", words)
        else:
            yield Flag(names, text, "file" if str(action.metavar) in FILES else "value")


def _plain(text: str) -> str:
    """``text`` without what means something to a shell."""
    return re.sub(r"[^\w .,;()/<>+-]", "", text.replace("'s ", " "))


def _bash(found: dict[str, tuple[str, list[Flag]]]) -> str:
    cases = []
    for name, (_, flags) in found.items():
        every = " ".join(n for flag in flags for n in flag.names if n.startswith("--"))
        more = " ".join(SHELLS) if name == "completion" else ""
        values = "".join(
            f"\n        {'|'.join(f.names)}) words='{' '.join(f.words)}' flags='' ;;"
            for f in flags
            if f.kind == "words"
        )
        files = "|".join(n for f in flags if f.kind == "file" for n in f.names)
        plain = "|".join(n for f in flags if f.kind == "value" for n in f.names)
        cases.append(
            f"    {name}) flags='{every}' words='{more}'\n      case $prev in{values}"
            + (f"\n        {files}) flags='' ;;" if files else "")
            + (f"\n        {plain}) return ;;" if plain else "")
            + "\n      esac ;;"
        )
    return f"""# bash completion of penstock: eval "$(penstock completion bash)"
_penstock() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} flags='' words=''
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '{" ".join(found)} --help --version' -- "$cur")); return
  fi
  case ${{COMP_WORDS[1]}} in
{chr(10).join(cases)}
  esac
  case $cur in -*) words+=" $flags" ;; esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _penstock penstock
"""


def _zsh(found: dict[str, tuple[str, list[Flag]]]) -> str:
    cases = []
    for name, (_, flags) in found.items():
        lines = []
        for flag in flags:
            after = {
                "none": "",
                "file": ":file:_files",
                "value": ":value:",
                "words": f":value:({' '.join(flag.words)})",
            }
            lines += [f"'*{each}[{flag.text}]{after[flag.kind]}'" for each in flag.names]
        rest = f"'1:shell:({' '.join(SHELLS)})'" if name == "completion" else "'*:file:_files'"
        cases.append(f"    {name}) _arguments {' '.join([*lines, rest])} ;;")
    listed = " ".join(f"'{name}:{text}'" for name, (text, _) in found.items())
    return f"""#compdef penstock
# zsh completion of penstock: in a folder of $fpath, as _penstock
_penstock() {{
  local -a commands=({listed})
  if ((CURRENT == 2)); then _describe command commands; return; fi
  local command=$words[2]
  shift words; ((CURRENT--))
  case $command in
{chr(10).join(cases)}
  esac
}}
if [[ $funcstack[1] == _penstock ]]; then _penstock "$@"; else compdef _penstock penstock; fi
"""


def _fish(found: dict[str, tuple[str, list[Flag]]]) -> str:
    lines = ["# fish completion of penstock: in ~/.config/fish/completions/penstock.fish"]
    for name, (text, flags) in found.items():
        lines.append(f"complete -c penstock -n __fish_use_subcommand -f -a {name} -d '{text}'")
        here = f"complete -c penstock -n '__fish_seen_subcommand_from {name}'"
        if name == "completion":
            lines.append(f"{here} -f -a '{' '.join(SHELLS)}'")
        for flag in flags:
            long = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in flag.names)
            after = {"none": "", "file": " -r -F", "value": " -x", "words": f" -x -a '{' '.join(flag.words)}'"}
            lines.append(f"{here} {long} -d '{flag.text}'{after[flag.kind]}")
    return "\n".join(lines) + "\n"
