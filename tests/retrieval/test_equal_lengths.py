"""Vectors of one length: products stay, and the nearest items are the best ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from longrec.retrieval.equal_lengths import of_items, of_users

NUMBERS = st.floats(-30, 30, width=32)


@given(arrays(np.float32, (7, 3), elements=NUMBERS), arrays(np.float32, (2, 3), elements=NUMBERS))
def test_products_stay_and_distances_follow_them(items: np.ndarray, users: np.ndarray):
    long, asked = of_items(items), of_users(users)
    np.testing.assert_array_equal(asked @ long.T, users @ items.T)
    lengths = np.linalg.norm(long.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(items, axis=1).max(), rtol=1e-5, atol=1e-5)
    for user in asked.astype(np.float64):
        squares = ((user - long) ** 2).sum(1)
        wanted = (user**2).sum() + lengths**2 - 2 * long @ user
        np.testing.assert_allclose(squares, wanted, rtol=1e-6, atol=1e-6)


def test_an_empty_catalog_has_no_vectors():
    assert of_items(np.zeros((0, 4), np.float32)).shape == (0, 5)
