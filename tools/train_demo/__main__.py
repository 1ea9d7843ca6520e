"""`python -m tools.train_demo`: train from scratch and write an HF folder."""

from __future__ import annotations

from .train import main

if __name__ == "__main__":
    main()
