"""longrec.ops."""
