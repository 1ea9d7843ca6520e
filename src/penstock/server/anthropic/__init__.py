"""Anthropic's dialect: ``/v1/messages``."""

from __future__ import annotations
