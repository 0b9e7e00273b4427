"""Monitoring of served models: record requests, compare them with the baseline, label some."""
