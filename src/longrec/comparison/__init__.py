"""Comparing models: equal budgets, a process of its own for each run, one page of results."""
