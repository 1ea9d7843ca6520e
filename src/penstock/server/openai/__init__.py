"""OpenAI's dialect, with vLLM's additions."""

from __future__ import annotations
