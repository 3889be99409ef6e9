"""longrec.stream."""
