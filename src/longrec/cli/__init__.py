"""longrec.cli."""
