"""A swarm in a box: real nodes on this machine, in folders and processes of their own."""
