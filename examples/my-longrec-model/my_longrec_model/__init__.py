"""A model of one's own for longrec: importing the package registers all that it has."""

from my_longrec_model import linear_attention, model

__all__ = ["linear_attention", "model"]
