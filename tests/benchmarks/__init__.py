"""Measurements, as ratios against a baseline in the same run. Not part of the test suite."""
