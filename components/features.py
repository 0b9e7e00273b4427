"""Names of the tf.Example features that ImageExampleGen writes, one scalar each.

They follow the TF Object Detection and TensorFlow Datasets conventions where those have a name.
"""

IMAGE = "image/encoded"  # JPEG or PNG: the original's bytes where it is one of them
LABEL_TEXT = "image/class/text"  # class name, UTF-8
LABEL = "image/class/label"  # int64, position of LABEL_TEXT in the sorted class names of the ingest
HEIGHT = "image/height"  # int64, pixels
WIDTH = "image/width"  # int64, pixels
ASPECT = "image/aspect"  # float, width / height
CHANNELS = "image/channels"  # int64: 1 gray, 3 colour, 4 with alpha
MEAN = "image/mean"  # float, mean luminance, 0 to 255
CONTRAST = "image/contrast"  # float, standard deviation of luminance, 0 to 128
FORMAT = "image/format"  # of IMAGE: "jpeg" or "png"
BYTES = "image/bytes"  # int64, length of IMAGE
NORMALIZED = "image/normalized"  # see `images.Picture`: as "orientation+cmyk", or "none"
SPAN = "image/span"  # int64, TFX's number of the span that it came with; 0 without spans
SHA256 = "image/sha256"  # hex digest of the original file, which also decides the split
FILENAME = "image/filename"  # path relative to the data root, UTF-8

# Different for every image, so that statistics over them say nothing and cost the most.
IDENTIFYING = (IMAGE, SHA256, FILENAME)
STATISTICS = (
    LABEL_TEXT,
    LABEL,
    HEIGHT,
    WIDTH,
    ASPECT,
    CHANNELS,
    MEAN,
    CONTRAST,
    FORMAT,
    BYTES,
    NORMALIZED,
    SPAN,
)
