"""Keras models and layers: backend-neutral, serializable, one architecture a file."""
