"""Accuracy of every registered model on the same logs, under one protocol and one budget."""
