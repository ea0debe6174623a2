"""The engine of agreement: it decides one digest, and knows digests only."""
