"""``e2r view``: shows registrations in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Options:
    """View a registration in the browser: its steps and its layers.

    Example: e2r view cases/seed0_0000_000
    """

    source: Annotated[Path, tyro.conf.Positional]
    """a case folder, which is registered now, or the output folder of e2r evaluate"""
    checkpoint: Path | None = None
    """output folder of e2r train, for a case; by default, the model that comes with e2r"""
    host: str = "127.0.0.1"
    """address to serve at; 0.0.0.0 admits other machines"""
    port: int = 8080
    """port to serve at; 0: any free one"""


def run(options: Options) -> int:
    """Runs ``e2r view``."""
    from e2r.visualisation import snapshots, viewer

    viewer.check_port_free(options.host, options.port)  # before a minute of work
    if not options.source.is_dir():
        raise ValueError(f"{options.source}: no such folder; give a case or an evaluation's output")
    if (options.source / "case.json").exists():
        from e2r.api import models, registering

        result = registering.register(options.source, models.load_model(options.checkpoint))
        registering.view(result, host=options.host, port=options.port)
    else:
        worst = snapshots.read_worst_of_job(options.source)
        viewer.serve(worst, host=options.host, port=options.port)
    return 0
