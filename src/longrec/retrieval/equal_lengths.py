"""Vectors for indexes that go by distance: all items' of one length, the same products.

Graphs of neighbours, as vector stores keep them, are made of distances between items. Where items
differ in length, or have a bias, the nearest by distance is another one than the best by product,
and a search ends far from it. One more number gives all items one length M; users have a 0 there:

    v' = (v, sqrt(M^2 - |v|^2)),  u' = (u, 0),  <u', v'> = <u, v>,
    |u' - v'|^2 = |u|^2 + M^2 - 2 <u, v>

(Bachrach et al., Speeding up the Xbox recommender system, RecSys 2014, section 3.2.)
"""

from __future__ import annotations

import numpy as np


def of_items(vectors: np.ndarray) -> np.ndarray:
    """Items' vectors (n, D) -> (n, D + 1) float32, all of the length of the longest."""
    squares = np.square(vectors, dtype=np.float64).sum(1)
    last = np.sqrt(squares.max(initial=0.0) - squares)
    return np.concatenate([vectors, last[:, None]], 1).astype(np.float32)


def of_users(vectors: np.ndarray) -> np.ndarray:
    """Users' vectors (..., D) -> (..., D + 1) float32."""
    return np.concatenate([vectors, np.zeros_like(vectors[..., :1])], -1).astype(np.float32)
