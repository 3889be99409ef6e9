"""Fitting a model: losses, optimiser, checkpoints, progress."""
