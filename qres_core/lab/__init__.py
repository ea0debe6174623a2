"""The simulator: a swarm on a virtual clock, decided by a seed, with attackers if one likes."""
