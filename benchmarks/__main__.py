"""Measures, side by side, and says what falls short: ``python -m benchmarks`` (``make bench``).

A *question* is a module here with ``measure(options) -> Iterator[Report]``. Results are kept as
JSON in ``benchmarks/results/``; ``--write-docs`` makes the table of docs/performance.md of them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Final

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from rich.console import Console

from benchmarks.harness import Options, save, show
from benchmarks.table import write_table

QUESTIONS: Final = {
    "encode": "1, 13: served Encode against the floor, and in bfloat16",
    "peer": "2, 3: served Encode against SAELens (with --peer; 20 minutes)",
    "alone": "4: what the wire adds to one short text",
    "activations": "5: Encode of a client's activations",
    "several_saes": "6: several SAEs for the same texts",
    "steering": "7-9: steered streams against one stream and against generate",
    "mixed": "10: Encode and Steer at once",
    "overload": "11: health, goodput and rejections beyond capacity",
    "streaming": "12: EncodeStream of many texts",
    "growth": "14: by callers, d_sae and length (pictures)",
    "where_time_goes": "where the time of an Encode goes (picture)",
    "gpu": "with --device cuda: against the ceilings of the device",
    "loading": "a wide SAE from disk",
    "data": "data of a training run",
    "scaling": "a training run in several processes",
    "trainer": "T1: training runs against SAELens: speed, memory",
    "trainer_wide": "T2: steps of 24,576 features against SAELens and the floor",
    "trainer_quality": "T3: explained variance and L0 against SAELens",
}
TRAINER: Final = ("trainer", "trainer_wide", "trainer_quality")
NOT_DEFAULT: Final = ("peer", "gpu", "loading", "data", "scaling", *TRAINER)
COMPARED: Final = ("peer", *TRAINER)
"""Their bars are all against SAELens."""
DEFAULT: Final = tuple(name for name in QUESTIONS if name not in NOT_DEFAULT)


def main() -> int:
    listing = "\n".join(f"  {name:13} {what}" for name, what in QUESTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures, side by side, and says what falls short.",
        epilog=f"questions:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "questions", nargs="*", metavar="QUESTION", help="default: all that have a row"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--device", default="cpu", help="where the model runs (cpu)")
    parser.add_argument("--runs", type=int, default=5, help="turns that count (5)")
    parser.add_argument("--peer", type=Path, help="a Python that has sae-lens, for rows 2, 3 and T")
    parser.add_argument("--dry", action="store_true", help="keep no results")
    parser.add_argument("--write-docs", action="store_true", help="renew the table of the docs")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.questions) - QUESTIONS.keys()):
        parser.error(f"no question {unknown[0]!r}; there are {', '.join(QUESTIONS)}")
    if arguments.peer is None and (name := _unanswerable(arguments)):
        parser.error(f"{name}: --peer has to name a Python that has sae-lens")
    options = Options(device=arguments.device, runs=arguments.runs, peer=arguments.peer)
    torch.set_grad_enabled(False)
    short: list[str] = []
    writes_only = arguments.write_docs and not arguments.questions
    for name in () if writes_only else arguments.questions or DEFAULT:
        for report in importlib.import_module(f"benchmarks.{name}").measure(options):
            show(report)
            if not arguments.dry:
                save(report, device=options.device)
            short += [
                f"row {report.row}, {bar.name}: {bar.value:.3g}, asked for {bar.bound}"
                for bar in report.falls_short
            ]
    if arguments.write_docs:
        write_table()
    console = Console()
    for line in short:
        console.print(f"[red]falls short[/red]  {line}", highlight=False)
    return 1 if short and arguments.check else 0


def _unanswerable(arguments: argparse.Namespace) -> str | None:
    """A question that has nothing to compare with: none of its bars could be missed."""
    compared = COMPARED if arguments.check else ("peer",)
    return next((name for name in arguments.questions if name in compared), None)


if __name__ == "__main__":
    sys.exit(main())
