"""Measurements behind docs/benchmarks.md. Compared things run interleaved, in one run, on one machine."""
