"""Mechanisms as functions: the definition, the parallel form, one step, CUDA."""
