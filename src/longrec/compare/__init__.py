"""longrec.compare."""
