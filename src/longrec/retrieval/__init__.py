"""Retrieval: the best items of the whole catalog for a user."""
