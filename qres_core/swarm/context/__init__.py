"""A node's place among the others: its head, its clock, and what it sends."""
