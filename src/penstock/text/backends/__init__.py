"""Tokenizer algorithms behind one small protocol (``base.Backend``), one file a library."""

from __future__ import annotations
