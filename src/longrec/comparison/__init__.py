"""Models trained under equal budgets, and what they reach."""
