"""ImageExampleGen: labelled images become TFRecords of encoded images, split by content."""
