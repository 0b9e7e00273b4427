"""AtomicPusher: a blessed model becomes a new version directory in one rename."""
