"""`saekit train`: an SAE from the command line."""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from saekit_trainer.options import OneSAE, SeveralSAEs, WhatToDo
    from saekit_trainer.results import Reporter, TrainingResult


def train(argv: list[str]) -> int:
    """Run `saekit train` with the arguments that follow it.

    Returns:
        The exit status: 0, or 1 after an error that was explained on stderr, 2 for wrong usage.
    """
    # Threads that sleep while they wait: beside other work on the same cores, spinning ones made a
    # run half as fast. Read when torch is loaded, which is why imports are local here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if argv[:1] == ["cache-activations"]:
        from saekit_trainer.cache.cli import cache_activations

        return cache_activations(argv[1:])
    from saekit_trainer.errors import ConfigError
    from saekit_trainer.options import parse_options

    console = Console(stderr=True)
    try:
        options = parse_options(argv)
    except ConfigError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        return 2
    except SystemExit as exit_:  # tyro: --help, or a flag that it explained
        return exit_.code if isinstance(exit_.code, int) else 1
    return _run(options, console)


def _run(options: OneSAE | SeveralSAEs, console: Console) -> int:
    from transformers.utils import logging

    from saekit_core.lm.errors import LMError
    from saekit_core.sae.errors import SAEError
    from saekit_trainer.display import TrainingDisplay
    from saekit_trainer.errors import TrainerError
    from saekit_trainer.options import SeveralSAEs

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with TrainingDisplay(console) as display, warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.print(
                f"[yellow]warning:[/yellow] {message}", highlight=False, soft_wrap=True
            )
            results = _train(options, display)
        summaries = {
            name: result.summary() | _publish(options, name, result)
            for name, result in results.items()
        }
    except (TrainerError, LMError, SAEError, OSError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        kept = options.run.n_checkpoints > 0
        what = "checkpoints written before stay" if kept else "nothing was written"
        console.print(f"interrupted; {what}", highlight=False)
        return 130
    if options.json:
        several = isinstance(options, SeveralSAEs)
        shown = summaries if several else next(iter(summaries.values()))
        sys.stdout.write(json.dumps(shown) + "\n")
    else:
        for summary in summaries.values():
            _print_summary(summary)
    return 0


def _train(options: OneSAE | SeveralSAEs, report: Reporter) -> dict[str, TrainingResult]:
    """The finished SAEs by sae_id."""
    from dataclasses import replace

    from saekit_trainer.options import OneSAE
    from saekit_trainer.publish import publish_target
    from saekit_trainer.runner import MultiSAETrainingRunner, SAETrainingRunner

    out = options.run.output_path if options.out is None else str(options.out)
    if isinstance(options, OneSAE):
        one = SAETrainingRunner(replace(options.run, output_path=out), report=report)
        sae_ids = {"": options.sae_id or one.plan.label}
    else:
        several = MultiSAETrainingRunner(replace(options.run, output_path=out), report=report)
        prefix = "" if options.sae_id is None else f"{options.sae_id}/"
        sae_ids = {name: prefix + name for name in several.plans}
    if options.publish is not None:
        for sae_id in sae_ids.values():
            publish_target(options.publish, sae_id)  # what is wrong with it is said at once
    if isinstance(options, OneSAE):
        one.run()
        assert one.result is not None
        return {sae_ids[""]: one.result}
    several.run()
    return {sae_ids[name]: result for name, result in several.results.items()}


def _publish(options: WhatToDo, sae_id: str, result: TrainingResult) -> dict[str, str]:
    """Publish an SAE if it is to be; what the summary says of it."""
    from saekit_trainer.publish import publish_sae

    if options.publish is None:
        return {}
    folder = publish_sae(result.sae, options.publish, sae_id, features=result.features)
    return {"sae_id": sae_id, "published": str(folder)}


def _print_summary(summary: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    evaluation = summary["evaluation"]
    rows = {
        "SAE": f"{summary['architecture']}, {summary['d_sae']} features at {summary['hook_name']}",
        "trained on": f"{summary['training_tokens']:,} tokens in {summary['seconds']:.0f} s",
        "explained variance": f"{evaluation['explained_variance']:.4f}",
        "L0": f"{evaluation['l0']:.1f}",
        "CE loss score": f"{evaluation['ce_loss_score']:.4f}",
        "dead features": f"{evaluation['dead_features']} of {summary['d_sae']}, on "
        f"{evaluation['tokens']:,} held-out tokens",
        "left out": f"{summary['skipped_samples']:,} broken samples"
        * bool(summary["skipped_samples"]),
        "written to": summary["folder"] or "",
        "published as": f"{summary.get('sae_id', '')} {summary.get('published', '')}".strip(),
    }
    for name, value in rows.items():
        if value:
            table.add_row(f"[bold]{name}[/bold]", value)
    Console().print(table)
