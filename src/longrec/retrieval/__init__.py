"""The best items of the catalog for a user vector: exact and approximate search."""
