"""Histories through a model: encoding, attribution and explanation."""
