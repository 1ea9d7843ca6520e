"""Print how long the project's files and functions are. A table to look at, never a failure.

The house's taste: a median of about 120 lines; past 300 a file wants a reason; 450 lines, or a function of 60,
are a sign to cut differently.
"""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AREAS = {
    "src": ("src", "*.py"),
    "csrc": ("csrc", "*.cpp"),
    "csrc headers": ("csrc", "*.h"),
    "tests": ("tests", "*.py"),
    "tools, scripts, benchmarks": ("tools scripts benchmarks", "*.py"),
    "web interface": ("webui/src webui/tests", "*.[ct]s*"),
}
LONG_FILE, TOO_LONG_FILE, LONG_FUNCTION = 300, 450, 60


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def long_functions(path: Path) -> list[tuple[int, str]]:
    """Functions of more than LONG_FUNCTION lines as (lines, where); the docstring is not counted."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            length -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
        if length > LONG_FUNCTION:
            found.append((length, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"))
    return found


def main() -> None:
    long_files: list[tuple[int, str]] = []
    functions: list[tuple[int, str]] = []
    print(f"{'area':<28}{'files':>6}{'lines':>8}{'median':>8}{'longest':>9}")
    for area, (folders, pattern) in AREAS.items():
        paths = [p for folder in folders.split() for p in sorted((ROOT / folder).rglob(pattern)) if p.is_file()]
        sizes = {path: lines_of(path) for path in paths}
        counted = [n for n in sizes.values() if n > 0]
        if not counted:
            continue
        median = statistics.median(counted)
        print(f"{area:<28}{len(counted):>6}{sum(counted):>8}{median:>8.0f}{max(counted):>9}")
        long_files += [(n, str(path.relative_to(ROOT))) for path, n in sizes.items() if n > LONG_FILE]
        functions += [item for path in paths if path.suffix == ".py" for item in long_functions(path)]
    for title, items in (
        (f"files over {LONG_FILE} lines (over {TOO_LONG_FILE}: !)", long_files),
        (f"Python functions over {LONG_FUNCTION} lines", functions),
    ):
        print(f"{title}: {len(items)}")
        for n, where in sorted(items, reverse=True):
            print(f"  {n:>5}{'!' if n > TOO_LONG_FILE else ' '} {where}")


if __name__ == "__main__":
    main()
