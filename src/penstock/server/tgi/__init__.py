"""The dialect of text-generation-inference (TGI)."""

from __future__ import annotations
