"""The laboratory: tasks, trainers, attacks and a simulator, for experiments on one machine."""
