"""Trains the small chat model that ships inside penstock (development only: needs torch, tokenizers, transformers)."""
