"""longrec.artifact."""
