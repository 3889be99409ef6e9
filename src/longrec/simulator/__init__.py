"""longrec.simulator."""
