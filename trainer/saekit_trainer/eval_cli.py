"""`saekit eval`: the figures of an SAE from the command line."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from saekit_trainer.errors import ConfigError
from saekit_trainer.eval_options import EvalOptions, parse_eval_options

if TYPE_CHECKING:
    from saekit_trainer.eval_run import EvalReport


def run_eval(argv: list[str]) -> int:
    """Run `saekit eval` with the arguments that follow it.

    Returns:
        The exit status: 0, or 1 after an error that was explained on stderr, 2 for wrong usage.
    """
    console = Console(stderr=True)
    try:
        options = parse_eval_options(argv)
    except ConfigError as error:
        _explain(console, error)
        return 2
    except SystemExit as exit_:  # tyro: --help, or a flag that it explained
        return exit_.code if isinstance(exit_.code, int) else 1
    return _run(options, console)


def _run(options: EvalOptions, console: Console) -> int:
    # Local, as torch and transformers take seconds to load.
    from transformers.utils import logging

    from saekit_core.lm.errors import LMError
    from saekit_core.sae.errors import SAEError
    from saekit_trainer.errors import TrainerError
    from saekit_trainer.eval_run import run_evaluation

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with _progress(console) as bar:
            task = bar.add_task("", total=None)
            report = run_evaluation(
                options, lambda done, total: bar.update(task, completed=done, total=total)
            )
    except (TrainerError, LMError, SAEError, OSError) as error:
        _explain(console, error)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted", highlight=False)
        return 130
    finally:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    if options.json:
        values = {"sae": options.sae, **report.to_dict(density=options.density)}
        sys.stdout.write(json.dumps(values) + "\n")
    else:
        Console().print(_table(report))
    return 0


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]evaluating[/bold]"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("contexts"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _explain(console: Console, error: Exception) -> None:
    console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)


def _table(report: EvalReport) -> Table:
    cfg, f = report.sae.cfg, report.figures
    out = cfg.metadata.hook_name_out
    contexts, size = report.tokens.shape
    rows = {
        "SAE": f"{cfg.architecture}, {cfg.d_sae:,} features at {cfg.hook_name}"
        + (f", for {out}" if out else ""),
        "model": report.model.name,
        "tokens": f"{f.tokens:,} of {contexts:,} contexts of {size}",
        "L0": f"{f.l0:.2f}",
        "features alive": f"{f.fraction_alive:.2%}, {f.dead_features:,} dead",
        "feature density": f"median {float(f.density.median()):.2g}, "
        f"largest {float(f.density.max()):.2g}",
        "explained variance": f"{f.explained_variance:.4f}",
        "MSE": f"{f.mse:.4g} per token",
        "cosine similarity": f"{f.cosine_similarity:.4f}",
        "shrinkage": f"{f.shrinkage:.4f}",
    }
    values = f.to_dict()
    rows |= {label: f"{values[name]:.4f}" for name, label in _LABELS.items() if name in values}
    table = Table(show_header=False, box=None)
    for name, text in rows.items():
        table.add_row(f"[bold]{name}[/bold]", escape(text))
    return table


_LABELS = {
    "ce_loss_clean": "CE loss, clean",
    "ce_loss_sae": "CE loss, spliced",
    "ce_loss_zero": "CE loss, zeroed",
    "ce_loss_score": "CE loss score",
    "kl_sae": "KL, spliced",
    "kl_zero": "KL, zeroed",
    "kl_score": "KL score",
}
"""Of the figures that there are only if the model was run to its end."""
