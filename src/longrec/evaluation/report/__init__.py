"""Metrics of several models as tables, figures and one HTML page."""
