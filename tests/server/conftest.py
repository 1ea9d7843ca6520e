"""A real server on a free port of this machine, with a tiny random model that speaks bytes."""

from __future__ import annotations

import pytest

from tests.server.harness import Server, make_checkpoint, open_model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def llm(checkpoint):
    model = open_model(checkpoint)
    yield model
    model.close()


@pytest.fixture(scope="session")
def server(llm):
    """The server most tests talk to; tests that change or break something start their own."""
    with Server(llm) as running:
        yield running
