"""longrec.runs."""
