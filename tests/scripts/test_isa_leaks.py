from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.isa_leaks import leaks, main


def test_a_symbol_shared_by_kinds_is_a_leak() -> None:
    symbols = {"a.cpp.o": ["f()", "g()"], "b.cpp.o": ["f()"], "k_avx2.cpp.o": ["g()"], "k_avx512.cpp.o": ["h()"]}
    assert leaks(symbols) == {"g()": ["a.cpp.o", "k_avx2.cpp.o"]}


def test_two_vector_kinds_may_not_share_either() -> None:
    assert leaks({"k_avx2.cpp.o": ["h()"], "k_avx512.cpp.o": ["h()"]}).keys() == {"h()"}
    assert leaks({"k_avx512.cpp.o": ["h()"], "k_amx.cpp.o": ["h()"]}).keys() == {"h()"}


@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("nm")), reason="needs g++ and nm")
@pytest.mark.parametrize(("linkage", "expected"), [("inline", 1), ("static", 0)])
def test_objects_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], linkage: str, expected: int) -> None:
    for name in ("plain", "kernel_avx2"):
        source = tmp_path / f"{name}.cpp"
        source.write_text(f"{linkage} int twice(int x) {{ return 2 * x; }}\nint (*use_{name})(int) = twice;\n")
        subprocess.run(["g++", "-c", str(source), "-o", f"{source}.o"], check=True)
    assert main(str(tmp_path)) == expected
    assert ("twice(int)" in capsys.readouterr().out) == bool(expected)
