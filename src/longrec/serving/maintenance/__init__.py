"""longrec.maintenance."""
