"""Print the tables of a measurement as Markdown, as they stand in stream.md and serve.md.

longrec bench serve --out found.json
python benchmarks/cells.py found.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from longrec_bench.tables import as_markdown, tables


def main() -> None:
    """Read and print."""
    for table in tables(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))):
        print(f"**{table.title}**\n\n{as_markdown(table)}")


if __name__ == "__main__":
    main()
