"""The round as a state machine: from round to round, from height to height."""
