"""The dialect of llama.cpp's server."""

from __future__ import annotations
