"""A real server on a free port of this machine, with a tiny random model that speaks bytes."""

from __future__ import annotations

import pytest

from tests.server.harness import TEMPLATE, Scripted, Server, Talker, make_checkpoint, open_model


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


@pytest.fixture(scope="session")
def talker(tmp_path_factory):
    """A server whose model says what it is told, with a template of Qwen's kind."""
    template = "{% if tools %}<tool_call>{{ tools | tojson }}</tool_call>{% endif %}<think></think>" + TEMPLATE
    path = make_checkpoint(tmp_path_factory.mktemp("talker"), template)
    model = open_model(path)
    scripted = Scripted(model.model.executor)
    model.model.engine.executor = scripted
    with Server(model) as server:
        yield Talker(server, scripted)
    model.close()
