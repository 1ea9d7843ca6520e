"""What every test starts from: no network, no settings from outside, one thread for the oracles."""

from __future__ import annotations

import os
import signal

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

# Examples are the same on every run: a failure can always be repeated. `HYPOTHESIS_PROFILE=explore` looks further.
hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=60, print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)  # fmt: skip
hypothesis.settings.register_profile(
    "explore", hypothesis.settings.get_profile("default"), derandomize=False, max_examples=1000
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
