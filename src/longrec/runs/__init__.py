"""Runs in a folder: train, evaluate, warm start."""
