"""Real swarms in trouble: what the scripts for chaos, soak and hostile frames share."""
