"""The commands of `perennial`, a module for each or a few that belong together.

None imports anything heavy before it is called: --help is to answer at once.
"""
