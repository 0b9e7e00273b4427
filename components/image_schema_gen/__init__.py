"""ImageSchemaGen: the schema of ImageExampleGen's output, inferred from statistics."""
