"""ImageTransform: TFX's Transform with the class list taken from the schema at run time."""
