"""The CPU executor in C++."""
