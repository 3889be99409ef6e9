"""A recommender as files that other software serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longrec.cli.options import Json, Run


def export(
    run: Run,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="New, empty, or an earlier export, which is replaced.",
            show_default=False,
        ),
    ],
    json: Json = False,
) -> None:
    """Write item vectors and the model as ONNX, checked against PyTorch, to serve without it.

    Example: [bold]longrec export run --out run-onnx[/bold]
    """
    from longrec.core import console
    from longrec.export.folder import export as write
    from longrec.recommender import load

    with console.progress_bar("exporting") as progress:
        manifest = write(load(run), out, progress)
    if json:
        console.print_json({"path": str(out)} | manifest)
        return
    sizes = [(file.name, file.stat().st_size) for file in sorted(out.iterdir())]
    console.table(str(out), ["file", "bytes"], [[name, f"{size:,}"] for name, size in sizes])
    parity = manifest["parity"]
    console.out.print(
        f"ONNX Runtime gives PyTorch's scores to {parity['of_spread']:.1g} of their standard "
        f"deviation ({parity['events']:,} events of {parity['histories']} random histories; "
        f"{parity['allowed_of_spread']:.1g} is allowed).",
        markup=False,
    )
