"""Encoding of many histories: what it costs, and the last items that go with it."""

from __future__ import annotations

import numpy as np
import pytest

from longrec.inference.encode import Events, Requests, encode_targets, last_items
from longrec.models import MODELS, build_model


class Counted(np.ndarray):
    """An array that counts the elements which functions are applied to."""

    elements = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        Counted.elements += max(np.size(x) for x in inputs)
        plain = [np.asarray(x) for x in inputs]
        if out is not None:
            kwargs["out"] = tuple(np.asarray(x) for x in out)
        found = getattr(ufunc, method)(*plain, **kwargs)
        return found.view(Counted) if isinstance(found, np.ndarray) else found


def elements_of(users: int) -> int:
    """Elements looked at to encode so many users of three events each, 20 users to a batch."""
    model = build_model("popularity", MODELS["popularity"].config_class(), 10).eval()
    length = np.full(users, 3).view(Counted)
    requests = Requests(
        *(np.arange(users) * 3, length, np.arange(users + 1).view(Counted), length - 1)
    )
    Counted.elements = 0
    encode_targets(
        *(model, Events(np.ones(3 * users, np.int32), None), requests, lambda numbers, h: None),
        progress=lambda done, total: None,
        batch_tokens=60,
    )
    return Counted.elements


def test_the_cost_per_user_does_not_grow_with_the_number_of_users():
    assert elements_of(4_000) <= 4.1 * elements_of(1_000)


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_last_items_are_the_latest_first(reach):
    none = np.zeros(1, np.int64)
    assert last_items(np.zeros(0, np.int32), none, none, reach).tolist() == [[0] * reach]
    items = np.array([5, 6, 7, 8, 9], np.int32)
    found = last_items(items, np.array([0, 1, 3, 5]), np.array([3, 1, 5, 5]), reach)
    assert found.tolist() == [row[:reach] for row in ([7, 6, 5], [0, 0, 0], [9, 8, 0], [0, 0, 0])]
