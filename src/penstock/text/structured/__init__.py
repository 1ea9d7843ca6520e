"""Structured output: a JSON schema, a regular expression, a choice or a grammar becomes a mask before each token."""

from __future__ import annotations

from penstock.text.structured.compiler import GrammarCompiler

__all__ = ["GrammarCompiler"]
