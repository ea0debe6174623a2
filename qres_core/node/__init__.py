"""The daemon around a node: configuration, logs, metrics, status and the swarm in a box."""
