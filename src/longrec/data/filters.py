"""What is left out of histories: repeats, rare users and items, short histories; and how much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from longrec.data.engine import Engine


@dataclass(frozen=True)
class Filters:
    """See `prepare`."""

    k_core: int = 0
    dedup: bool | str = False
    min_length: int = 1

    @property
    def any(self) -> bool:
        """Whether something is left out."""
        return self.k_core > 1 or bool(self.dedup) or self.min_length > 1

    def apply(
        self, engine: Engine, has_time: bool, gone: np.ndarray | None = None
    ) -> dict[str, int]:
        """Make the table `kept` of the view `coded`; -> what was left out, by reason.

        gone : codes of the items that the k-core lacks, where others know them: the events of these
            users alone do not tell.
        """
        engine.run("CREATE OR REPLACE TABLE kept AS SELECT * FROM coded")
        dropped: dict[str, int] = {}
        if self.dedup:
            same = ["user", "item"]
            if self.dedup == "same-time":
                same.append("time" if has_time else "key")
            before = _counts(engine)
            first = f"row_number() OVER (PARTITION BY {', '.join(same)} ORDER BY key, row) = 1"
            engine.run(f"CREATE OR REPLACE TABLE kept AS SELECT * FROM kept QUALIFY {first}")
            dropped["repeated_events"] = before["events"] - _counts(engine)["events"]
        if self.k_core > 1:
            dropped |= self._drop(
                engine, "k_core", self._core if gone is None else self._core_of(engine, gone)
            )
        if self.min_length > 1:
            dropped |= self._drop(engine, "short", self._short)
        return dropped

    def _drop(self, engine: Engine, reason: str, statement: str) -> dict[str, int]:
        """Delete again and again until nothing changes."""
        before = _counts(engine)
        while engine.run(statement)[0][0]:
            pass
        after = _counts(engine)
        return {f"{reason}_{what}": before[what] - after[what] for what in before}

    @property
    def _core(self) -> str:
        """The k-core: the largest part of the log where every user and item has k events."""
        rare = [
            f"{role} IN (SELECT {role} FROM kept GROUP BY 1 HAVING count(*) < {self.k_core})"
            for role in ("user", "item")
        ]
        return f"DELETE FROM kept WHERE {' OR '.join(rare)}"

    def _core_of(self, engine: Engine, gone: np.ndarray) -> str:
        """The same where the items that it lacks are known."""
        lost = engine.register(pa.table({"item": pa.array(gone, pa.int32())}))
        return (
            f"DELETE FROM kept WHERE item IN (SELECT item FROM {lost}) OR user IN (SELECT user "
            f"FROM kept WHERE item NOT IN (SELECT item FROM {lost}) GROUP BY 1 "
            f"HAVING count(*) < {self.k_core})"
        )

    @property
    def _short(self) -> str:
        return (
            "DELETE FROM kept WHERE user IN "
            f"(SELECT user FROM kept GROUP BY 1 HAVING count(*) < {self.min_length})"
        )


def _counts(engine: Engine) -> dict[str, int]:
    return engine.row(
        "SELECT count(*) AS events, count(DISTINCT user) AS users, count(DISTINCT item) AS items "
        "FROM kept"
    )
