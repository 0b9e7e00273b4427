"""Commands of `perennial` that have a module of their own; none imports anything heavy."""
