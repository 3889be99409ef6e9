"""Costs measured on the machine at hand, with the parts that serve."""
