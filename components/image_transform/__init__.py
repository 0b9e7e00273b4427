"""ImageTransform: preprocessing as a saved graph, and every example put through it once."""
