"""The kernel: finds, checks and composes the plugins a configuration names."""
