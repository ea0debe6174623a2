"""The group in plain Python: the fallback, and what the compiled engine is tested against."""
