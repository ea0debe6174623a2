"""The swarm: rounds, agreement, the node's state and shell, and the built-in plugins."""
