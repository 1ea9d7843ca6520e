"""Executors run programs: ``native`` (C++, CPUs) and ``torch`` (the plain reference, later CUDA)."""
