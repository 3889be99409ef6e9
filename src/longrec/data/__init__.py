"""Logs to events, events to histories on disk, histories to batches; simulated and public data."""
