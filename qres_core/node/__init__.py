"""The daemon around a node: configuration, logs, metrics and status."""
