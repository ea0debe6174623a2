"""A node on a transport: the tasks around the machine, and the carrier of large frames."""
