"""Resolver strategies for artifacts of earlier runs, which `pipeline.dag` wires in."""
