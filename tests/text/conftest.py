from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.text.grammars import Opened


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    found = Opened("stories")
    yield found
    found.compiler.close()
