"""Facts, programs and passes: what a model is, as data."""
