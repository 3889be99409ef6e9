"""longrec.inference."""
