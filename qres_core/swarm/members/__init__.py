"""Changes of the members, and nodes that have another history."""
