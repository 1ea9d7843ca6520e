"""One file a family: facts and weight rules, no forward code."""
