"""Names of the tf.Example features that ImageExampleGen writes, one scalar each.

They follow the TF Object Detection and TensorFlow Datasets conventions where those have a name.
"""

IMAGE = "image/encoded"  # bytes of the file, in `FORMAT`
LABEL_TEXT = "image/class/text"  # class name, UTF-8
LABEL = "image/class/label"  # int64, position of LABEL_TEXT in the sorted class names of the ingest
HEIGHT = "image/height"  # int64, pixels
WIDTH = "image/width"  # int64, pixels
CHANNELS = "image/channels"  # int64: 1 gray, 3 colour, 4 with alpha or CMYK
FORMAT = "image/format"  # "jpeg", "png", "gif" or "bmp"
BYTES = "image/bytes"  # int64, length of IMAGE
SHA256 = "image/sha256"  # hex digest of the original file, which also decides the split
FILENAME = "image/filename"  # path relative to the data root, UTF-8

# Different for every image, so that statistics over them say nothing and cost the most.
IDENTIFYING = (IMAGE, SHA256, FILENAME)
STATISTICS = (LABEL_TEXT, LABEL, HEIGHT, WIDTH, CHANNELS, FORMAT, BYTES)
