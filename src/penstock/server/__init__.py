"""The HTTP server: one port, several dialects, one engine API (:class:`penstock.AsyncLLM`) behind them.

``run.serve`` starts it, ``app.create_app`` makes the ASGI application. A dialect is a folder of ``schema`` (what comes
in), ``adapt`` (to prompts and sampling parameters, and back) and ``routes``; errors become bodies at one edge.
"""

from __future__ import annotations
