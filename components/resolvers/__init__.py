"""How nodes find artifacts of earlier runs: one strategy a file, which `pipeline.dag` wires in."""
