"""Measurements, not tests: run as `python -m tests.benchmarks.<name>`, each prints ratios."""
