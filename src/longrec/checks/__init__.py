"""Checks of mixers and models, ours or anybody's: plain functions that raise CheckFailed."""
