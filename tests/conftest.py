"""What every test starts from: no network, no settings from outside, one thread for the oracles."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from typing import Any

# Read by torch and huggingface_hub when they are imported, so set before any of them is.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", NO_COLOR="1")
KEPT = {"PENSTOCK_SHARED", "PENSTOCK_LLAMA_CPP_PYTHON"}
SETTINGS = {name for name in os.environ if name.startswith("PENSTOCK_")} - KEPT
for _name in SETTINGS:
    del os.environ[_name]

# A script that runs the tests in the background ignores Ctrl-C for them, and so for the programs that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# Examples are the same on every run: a failure can always be repeated. `HYPOTHESIS_PROFILE=explore` looks further.
hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=60, print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)  # fmt: skip
hypothesis.settings.register_profile(
    "explore", hypothesis.settings.get_profile("default"), derandomize=False, max_examples=1000
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker of pytest-xdist: a file's tests stay together, unless they name a group of their own."""
    if hasattr(config, "workerinput"):
        for item in items:
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """A worker's reports go through a pipe that bears no lone surrogates; tests of bad input log some."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sendable(key): _sendable(part) for key, part in value.items()}
    return type(value)(map(_sendable, value)) if isinstance(value, list | tuple) else value
