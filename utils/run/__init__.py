"""A run of one stage: its folder, lock, checkpoints, log and signals, and the command line that starts it."""
