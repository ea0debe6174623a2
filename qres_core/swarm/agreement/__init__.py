"""The two decisions of a height: the set to merge, and what became of it."""
