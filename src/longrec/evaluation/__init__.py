"""Evaluation: ranking every target against the whole catalog, intervals, summaries and reports."""
