"""Training: fitting, checkpoints, and what is reported on the way."""
