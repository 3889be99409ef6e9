"""Trained recommenders that a model learns from, beside what happened (distillation).

A target says which item came next. The mean of some networks, in log-probability, says how likely
each item was: a model that is trained on both (Hinton et al. 2015, arXiv 1503.02531) gets near to
what they reach together, in fewer epochs, and may be narrower than they are.

The mean of scores that are products is a product as well: of the teachers' user vectors, one behind
the other and each over their number, and their item vectors. So it costs one product more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longrec.artifact.artifact import Artifact
from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.data.batches import Batch
from longrec.data.histories import Histories
from longrec.data.splits import ALL
from longrec.inference.encode import check_times
from longrec.models import SequenceModel
from longrec.training.losses import Taught
from longrec.training.windows import WindowReader


class Teachers:
    """Their networks, without what is added to scores; nothing of them is trained.

    Parameters
    ----------
    models : sequence of SequenceModel
        That `check_teachers` has let pass.
    share : float
        Of the loss that they have; the rest is the events'.
    device : torch.device
    """

    def __init__(self, models: Sequence[SequenceModel], share: float, device: torch.device) -> None:
        self.readers = [WindowReader(model.to(device).eval()) for model in models]
        self.share, number = share, len(models)
        with torch.no_grad():
            self._items = torch.cat([model.item_vectors() for model in models], 1)
            biases = [bias for model in models if (bias := model.item_bias()) is not None]
            self._bias = torch.stack(biases).sum(0) / number if biases else None

    @torch.no_grad()
    def read(self, batch: Batch, real: Tensor) -> Taught:
        """What they say of a batch, at the positions (B, T) that are `real`."""
        users = []
        for reader in self.readers:
            vectors = reader.model.user_vectors(reader.read(batch)[real])
            kind = torch.promote_types(vectors.dtype, torch.float32)
            users.append(vectors.squeeze(1).to(kind) / len(self.readers))
        return Taught(torch.cat(users, 1), self._items, self._bias, self.share)


def check_teachers(
    teachers: Sequence[Artifact], data: Histories, config: TrainConfig
) -> list[SequenceModel]:
    """The networks of recommenders from which a model may learn on histories.

    Raises
    ------
    UsageError
        When one knows other items, has seen events that this training must not see, or gives no
        products of one vector per user, event by event.
    """
    found = []
    for teacher in teachers:
        who = f"the teacher {teacher.name if teacher.folder is None else teacher.folder}"
        network = teacher.model
        if (
            not isinstance(network, SequenceModel)
            or network.streaming != "exact"
            or network.target_aware
        ):
            raise UsageError(
                f"{who} is a {teacher.name}: a teacher streams exactly and scores by products with "
                "one vector of a user (`longrec models` lists what streams)"
            )
        if network.reads_columns:
            raise UsageError(
                f"{who} reads {', '.join(network.reads_columns)} of each event: take one that "
                "reads items and times alone"
            )
        with torch.no_grad():
            vectors = network.user_vectors(network.items.new_zeros(1, network.width))
        if vectors.shape[1] > 1:
            raise UsageError(
                f"{who} has {vectors.shape[1]} vectors of each user, so that its scores are no "
                "products: take one that has one"
            )
        if teacher.catalog.digest != data.catalog.digest:
            raise UsageError(
                f"{who} knows other items than {data.path}: train it on these histories"
            )
        same = teacher.provenance.get("data", {}).get("fingerprint") == data.fingerprint
        own = teacher.train_config
        if config.protocol == ALL:
            pass
        elif not same or (own.protocol, own.cut) != (config.protocol, config.cut):
            raise UsageError(
                f"{who} was trained on other events ({'these' if same else 'other'} histories, "
                f"{_cut(own)}), so that it may know targets of this training: take one that was "
                f"trained on these histories under {_cut(config)}"
            )
        elif "warm_start" in teacher.provenance:
            raise UsageError(
                f"{who} went on from {teacher.provenance['warm_start']['run']} (warm start), which "
                "may know targets of this training: take one that began anew"
            )
        check_times(network, data.times, of_log=True)
        found.append(network)
    return found


def _cut(config: TrainConfig) -> str:
    """How a training cuts histories, in words."""
    return f"{config.protocol!r}" + ("" if config.cut is None else f" with cut {config.cut!r}")
