"""longrec.core."""
