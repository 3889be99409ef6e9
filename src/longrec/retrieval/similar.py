"""Items like an item: those whose vectors point most nearly its way."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.inference_mode()
def similar(vectors: Tensor, item: int, k: int) -> tuple[Tensor, Tensor]:
    """The k items of the largest cosine with an item, itself left out.

    Parameters
    ----------
    vectors : Tensor
        (n_items + 1, D), row 0 is padding.
    item : int
        Item index, 1 .. n_items.
    k : int
        Items wanted.

    Returns
    -------
    (Tensor, Tensor)
        Item indices (m,) and cosines (m,), best first, m = min(k, n_items - 1).
    """
    sizes = torch.linalg.vector_norm(vectors, dim=1).clamp_min(torch.finfo(vectors.dtype).tiny)
    cosines = (vectors @ (vectors[item] / sizes[item])) / sizes
    cosines[[0, item]] = -torch.inf
    best = cosines.topk(max(0, min(k, len(vectors) - 2)))
    return best.indices.cpu(), best.values.cpu()
