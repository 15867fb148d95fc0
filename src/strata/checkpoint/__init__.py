"""What survives: files that are whole or absent, checkpoints that verify, and the run's folder."""
