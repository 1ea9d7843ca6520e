"""Text: strings to token ids and back, chat templates, stop strings. Knows nothing of engines and sockets."""

from __future__ import annotations
