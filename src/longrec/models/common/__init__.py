"""longrec.common."""
