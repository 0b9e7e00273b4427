"""ImageEvaluator: what a candidate gets right and wrong, and whether it is blessed."""
