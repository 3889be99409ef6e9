"""How good a model is: ranks of targets, metrics, intervals."""
