"""What streams are held against: a model that reads its last events again for each pair."""

from __future__ import annotations

import random
from itertools import cycle, islice

import numpy as np
import torch
from torch import nn

from longrec.models import MODELS, SequenceModel, build_model
from longrec.recommender import Recommender
from longrec.retrieval.index import Index
from longrec.retrieval.item_mask import as_bits
from longrec_bench.cells import Cell, Measured
from longrec_bench.clients import K
from longrec_bench.users import Users

WINDOWS = (200, 2048)
"""Last events that are read again."""


class Reencoding(Measured):
    """Pairs without a stream: the last events are kept in memory, and all read for each of them.

    Nothing is stored, no id is looked up and no frame is made, which is all in its favour.
    """

    def __init__(
        self, model: SequenceModel, index: Index, users: Users, of: Cell, pairs: int
    ) -> None:
        super().__init__(of)
        assert model.max_length is not None
        self.model, self.index, self.users, self.pairs = model, index, users, pairs
        self.window = model.max_length
        self._tails = [
            torch.from_numpy(row[-self.window :].astype(np.int64)) for row in users.items
        ]
        self._seen = np.stack([as_bits(row, model.n_items) for row in users.items])
        self._rng, self._turn = random.Random(0), cycle(range(len(users)))

    @torch.inference_mode()
    def burst(self) -> None:
        for number in islice(self._turn, self.pairs):
            item = self.users.index(number, self._rng)
            with self.timed():
                tail = torch.cat([self._tails[number], torch.tensor([item])])[-self.window :]
                self._tails[number] = tail
                self._seen[number, item >> 3] |= 1 << (item & 7)
                h = self.model.encode(tail[None])[:, -1]
                self.index.search(h, K, self._seen[number : number + 1])


def window_models(recommender: Recommender) -> list[SequenceModel]:
    """SASRec of a recommender's shape, random weights, one for each of `WINDOWS`.

    Their item vectors are the recommender's own if it has some, so that its index serves them, too.
    """
    given = recommender.model_config
    shape = {
        key: getattr(given, key)
        for key in ("dim", "layers", "heads", "ffn_dim")
        if hasattr(given, key)
    }
    if shape.get("dim", 0) % shape.get("heads", 2):
        shape["heads"] = 1
    found = []
    for window in WINDOWS:
        config = MODELS["sasrec"].config_class(**shape, max_length=window)
        model = build_model("sasrec", config, recommender.catalog.n_items).eval()
        assert isinstance(model, SequenceModel)
        if isinstance(recommender.model, SequenceModel):
            vectors = recommender.item_vectors()
            model.items = nn.Parameter(vectors, requires_grad=False)
        found.append(model)
    return found
