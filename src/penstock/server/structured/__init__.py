"""Structured output: what an answer must look like, as masks over the vocabulary, one for each token."""

from __future__ import annotations
