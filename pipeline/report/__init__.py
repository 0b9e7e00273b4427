"""What a person is told of a run: facts are collected, then drawn, written as a page or printed."""
