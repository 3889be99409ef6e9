"""longrec.report."""
