"""ImageExampleGen: a folder of class folders becomes TFRecords of encoded images, split by content."""
