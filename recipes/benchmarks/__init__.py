"""Benchmarks: scripts here, what they share in `parts`."""
