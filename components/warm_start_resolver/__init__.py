"""Finds the model that a training may begin from."""
