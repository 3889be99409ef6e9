"""longrec.records."""
