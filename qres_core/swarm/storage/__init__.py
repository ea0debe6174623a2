"""Storage of a node: its journal, contributions, models, dialogues, and its trainer's memory."""
