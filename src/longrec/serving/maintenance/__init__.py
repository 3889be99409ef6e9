"""Stores backed up, restored, verified; records of old models dropped."""
