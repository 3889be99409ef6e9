"""What no model can beat on simulated histories: rows that stand beside those of models."""

from __future__ import annotations

from longrec.data.histories import Histories
from longrec.data.splits import Split
from longrec.evaluation.report.contents import ReportRow
from longrec.evaluation.summary import Metrics, as_served, summarise_ranks
from longrec.simulator.ceiling import ceiling
from longrec.simulator.simulate import Simulation
from longrec.training.validation import validated


def attainable(
    simulation: Simulation, histories: Histories, split: Split, window: int
) -> list[ReportRow]:
    """What the best model can reach with the last `window` events, and with all of them."""

    def best(within: int | None) -> Metrics:
        ranks = ceiling(simulation, histories, split.test, window=within)
        hides = validated(ranks).exclude_seen
        served = as_served(ranks, hides)
        return summarise_ranks(served, split.protocol, split.notes, exclude_seen=hides)

    return [
        ReportRow(f"best with the last {window} events", "bound", best(window)),
        ReportRow("best with the whole history", "ceiling", best(None)),
    ]
