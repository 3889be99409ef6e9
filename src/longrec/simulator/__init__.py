"""Simulated histories whose best possible prediction is known exactly."""
