"""Serving: what is kept of users, where, and how one event updates it."""
