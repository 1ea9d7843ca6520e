"""Fail where src/ could run what a checkpoint or a client brings: pickles, eval, shells, remote code, unsafe YAML.

A restricted unpickler needs ``pickle.Unpickler`` as a base class: only the files in ``UNPICKLERS`` may import
``pickle``, and only for that.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNPICKLERS = {"src/penstock/checkpoints/unpickle.py"}
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Dotted calls that are refused whatever their arguments are.
CALLS = {"os.system", "os.popen", "pickle.load", "pickle.loads", "numpy.fromregex"}
# Text that has no business in the package outside the message that refuses it.
ARGUMENTS = {"trust_remote_code", "allow_pickle"}


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name or attribute chain, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def faults_of_call(node: ast.Call) -> Iterator[str]:
    name = dotted(node.func)
    arguments = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in BUILTINS or name in CALLS:
        yield f"{name}()"
    if name == "torch.load" and not is_constant(arguments.get("weights_only"), True):
        yield "torch.load() without weights_only=True"
    if name in {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}:
        yield f"{name}(); use yaml.safe_load()"
    if name in {"jinja2.Template", "jinja2.Environment", "Template", "Environment"}:
        yield f"{name}(): templates come from checkpoints, use jinja2.sandbox.ImmutableSandboxedEnvironment"
    if "shell" in arguments and not is_constant(arguments["shell"], False):
        yield f"{name or 'call'}(shell=…)"
    for argument in ARGUMENTS & arguments.keys():
        if not is_constant(arguments[argument], False):
            yield f"{name or 'call'}({argument}=…)"


def faults_of_import(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    for name in names:
        if name.split(".")[0] in MODULES:
            yield f"import {name}"


def faults(source: str, *, may_unpickle: bool = False) -> list[tuple[int, str]]:
    """The forbidden things of one file's text as (line, what)."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found += [(node.lineno, what) for what in faults_of_call(node)]
        elif isinstance(node, ast.Import | ast.ImportFrom) and not may_unpickle:
            found += [(node.lineno, what) for what in faults_of_import(node)]
    return sorted(found)


def main() -> int:
    bad = 0
    for path in sorted((ROOT / "src").rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        for line, what in faults(path.read_text(encoding="utf-8"), may_unpickle=where in UNPICKLERS):
            bad += 1
            print(f"{where}:{line}: forbidden: {what}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
