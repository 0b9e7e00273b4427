"""Reports of runs: facts are collected, then drawn, written as a page or printed."""
