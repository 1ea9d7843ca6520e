"""OpenAI's ``/v1/responses``: turns that may go on from a turn kept in memory."""

from __future__ import annotations
