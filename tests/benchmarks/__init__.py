"""Measurements, each as ratios within one run; pytest does not collect them."""
