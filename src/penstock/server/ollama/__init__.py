"""Ollama's dialect: ``/api/…``, streams of JSON lines."""

from __future__ import annotations
