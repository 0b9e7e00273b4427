"""BaselineStrategy: the latest blessed model, never the candidate itself."""
