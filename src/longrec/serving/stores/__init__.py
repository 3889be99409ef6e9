"""Where events and users' records are kept: LMDB in a folder, or a Redis server."""
