"""Other engines, where they are installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.client import LlamaCpp, open_peer


@pytest.fixture(scope="package")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    with open_peer(tmp_path_factory.mktemp("llama_cpp")) as peer:
        yield peer
