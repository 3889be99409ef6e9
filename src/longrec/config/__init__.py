"""longrec.config."""
