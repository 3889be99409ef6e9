"""The service: routes, limits, metrics, and a new model while it runs."""
