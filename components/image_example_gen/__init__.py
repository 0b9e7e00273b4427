"""ImageExampleGen: class folders become TFRecords of encoded images, split by content."""
