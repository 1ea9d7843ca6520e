"""argparse with manners: flags in either spelling, other engines' names for them, the nearest one for a mistake.

One option: ``--max_model_len=4096``, ``--max-model-len 4096``, ``--ctx-size 4096``.
One switch: ``--enable-prefix-caching``, ``--no-enable-prefix-caching``, ``--enable_prefix_caching false``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from penstock.errors import ConfigError, nearest

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")


class Parser(argparse.ArgumentParser):
    """A command's parser. Options that were not given are absent from the namespace unless they have a default.

    ``option`` adds a flag with synonyms that work but are not shown; ``switch`` one that is true or false. ``switches``
    are the latter, ``bare`` those that may stand without a value.
    """

    def __init__(self, command: str, description: str, examples: Sequence[str] = (), notes: str = "") -> None:
        epilog = "".join(f"\n  {line}" for line in examples)
        super().__init__(
            prog=f"penstock {command}",
            description=description,
            epilog=f"examples:{epilog}\n{notes}" if examples else notes,
            formatter_class=_Formatter,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        self._synonyms: dict[str, str] = {}
        self.switches: set[str] = set()
        self.bare: dict[str, str] = {}
        self.words: dict[str, tuple[str, ...]] = {}
        self.add_argument("--debug", action="store_true", help="show tracebacks of errors (env PENSTOCK_DEBUG=1)")

    def option(
        self,
        name: str,
        help: str,  # noqa: A002
        *,
        short: str | None = None,
        synonyms: Iterable[str] = (),
        group: argparse._ArgumentGroup | None = None,
        bare: str | None = None,
        words: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        """``--name`` with a value. ``name`` and ``synonyms`` in either spelling; ``short`` like ``-m``.

        ``bare``: what ``--name`` without ``=value`` means, where it may stand alone; if one of ``words`` follows, that
        is its value.
        """
        flag = _flag(name)
        if bare is not None:
            self.bare[flag] = bare
            self.words[flag] = words
        (group or self).add_argument(*((short,) if short else ()), flag, dest=_dest(name), help=help, **more)
        self._learn(flag, synonyms)

    def switch(
        self,
        name: str,
        help: str,  # noqa: A002
        *,
        short: str | None = None,
        synonyms: Iterable[str] = (),
        group: argparse._ArgumentGroup | None = None,
        **more: Any,
    ) -> None:
        """``--name`` (true), ``--no-name`` (false), or ``--name true|false``."""
        flag = _flag(name)
        self.switches.add(flag)
        self._learn(flag, synonyms)
        if short:
            self._synonyms[short] = flag
        (group or self).add_argument(flag, dest=_dest(name), action=_Switch, short=short, help=help, **more)

    def synonyms(self, name: str, synonyms: Iterable[str]) -> None:
        """Further names of an option or switch that there is; they win over what they meant before."""
        self._learn(_flag(name), synonyms)

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse. Raises ``ConfigError`` for anything unknown or malformed."""
        args = self._normalise(list(argv))
        if {"-h", "--help"} & set(args[: args.index("--")] if "--" in args else args):
            self.print_help()
            raise SystemExit(0)
        given, extras = self.parse_known_intermixed_args(args)
        for extra in extras:
            if extra.startswith("-") and extra != "-":
                name = extra.partition("=")[0]
                hint = nearest(_flag(name), self.flags) if name.startswith("--") else ""
                raise ConfigError(f"unknown option '{name}'{hint}; see `{self.prog} --help`")
            raise ConfigError(f"unexpected argument '{extra}'; see `{self.prog} --help`")
        return given

    @property
    def flags(self) -> list[str]:
        """Every long flag that is understood."""
        own = [f for f in self._option_string_actions if f.startswith("--")]
        return [*own, *(s for s in self._synonyms if s.startswith("--"))]

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`")

    def _learn(self, flag: str, synonyms: Iterable[str]) -> None:
        for synonym in synonyms:
            short = synonym.startswith("-") and not synonym.startswith("--")
            self._synonyms[synonym if short else _flag(synonym)] = flag

    def _normalise(self, argv: list[str]) -> list[str]:
        """Flags in the spelling that argparse was told, switches with their value."""
        out: list[str] = []
        rest = iter(enumerate(argv))
        for index, arg in rest:
            if arg == "--":
                return [*out, *argv[index:]]
            name, equals, value = arg.partition("=")
            flag = self._known(name)
            if flag is None:
                out.append(arg)
            elif flag in self.bare and not equals:
                following = argv[index + 1].lower() if index + 1 < len(argv) else ""
                known = following in self.words[flag]
                if known:
                    next(rest)
                out.append(f"{flag}={following if known else self.bare[flag]}")
            elif flag in self.switches and not equals:
                following = argv[index + 1].lower() if index + 1 < len(argv) else ""
                if following in ("true", "false"):
                    next(rest)
                out.append(f"{flag}={following if following in ('true', 'false') else 'true'}")
            else:
                out.append(flag + equals + value)
        return out

    def _known(self, name: str) -> str | None:
        if not name.startswith("--"):
            return self._synonyms.get(name)
        flag = _flag(name)
        if flag in self._option_string_actions or flag in self._synonyms:
            return self._synonyms.get(flag, flag)
        positive = "--" + flag.removeprefix("--no-")
        if flag.startswith("--no-") and self._synonyms.get(positive, positive) in self.switches:
            return None if "=" in name else self._synonyms.get(positive, positive) + "=false"
        return None


class _Switch(argparse.Action):
    """True or false, always with its value by the time argparse sees it; ``short`` is for the help text."""

    def __init__(self, option_strings: Sequence[str], dest: str, short: str | None = None, **more: Any) -> None:
        super().__init__(option_strings, dest, type=truth, **more)
        self.short = short

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        setattr(namespace, self.dest, values)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Wide help, one option a line where it fits; switches show both of their forms."""

    def __init__(self, prog: str) -> None:
        import shutil

        width = min(110, shutil.get_terminal_size((100, 24)).columns)
        super().__init__(prog, max_help_position=34, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, _Switch):
            names = f"--[no-]{action.option_strings[0].removeprefix('--')}"
            return f"{action.short}, {names}" if action.short else names
        if action.option_strings and action.nargs != 0:
            names = ", ".join(action.option_strings)
            value = self._format_args(action, self._get_default_metavar_for_optional(action))
            return f"{names} {value}"
        return super()._format_action_invocation(action)

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        """Options are listed below; the usage line names only what is written without a flag."""
        places = [a for a in actions if not a.option_strings]
        shown = " ".join(self._format_args(a, self._get_default_metavar_for_positional(a)) for a in places)
        return f"usage: {self._prog} {shown + ' ' if shown else ''}[options]\n\n"


def truth(text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise argparse.ArgumentTypeError(f"must be true or false, got '{text}'")


def whole(text: str) -> int:
    """A whole number; ``4k`` is 4000 and ``4K`` 4096, as vLLM reads them."""
    scale = {"k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}.get(text[-1:], 1)
    try:
        return int(text if scale == 1 else text[:-1]) * scale
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got '{text}'") from None


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got '{text}'") from None


def size(text: str) -> int:
    """Bytes: ``4GiB``, ``4G`` (both 1024³), ``4GB`` (1000³), ``512M``, or a plain number."""
    digits = text.rstrip("BbKkMmGgTtIi ")
    unit = text[len(digits) :].strip().upper()
    powers = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    base = 1000 if unit.endswith("B") and not unit.endswith("IB") else 1024
    prefix = unit.removesuffix("B").removesuffix("I")
    try:
        return int(float(digits) * base ** powers[prefix])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"must be a size like 4GiB or 512M, got '{text}'") from None


def port_number(text: str) -> int:
    port = whole(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, got {text}")
    return port


def json_object(text: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be JSON ({error}), got '{text}'") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object like '{\"name\": 1}'")
    return value


def _flag(name: str) -> str:
    return "--" + name.lstrip("-").replace("_", "-")


def _dest(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


Converter = Callable[[str], Any]
__all__ = ["Converter", "Parser", "json_object", "number", "port_number", "size", "truth", "whole"]
