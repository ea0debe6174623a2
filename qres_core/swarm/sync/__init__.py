"""Progress of the others, and catching up by a node that lags."""
