"""`saekit train cache-activations`: a model's activations, put on disk from the command line."""

from __future__ import annotations

import signal
import sys
import warnings
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from saekit_trainer.cache.config import CacheActivationsRunnerConfig, parse_cache_options
from saekit_trainer.errors import ConfigError


def cache_activations(argv: list[str]) -> int:
    """Run `saekit train cache-activations` with the arguments that follow it.

    Returns:
        The exit status: 0, or 1 after an error that was explained on stderr, 2 for wrong usage,
        130 where it was interrupted.
    """
    console = Console(stderr=True)
    try:
        options = parse_cache_options(argv)
    except ConfigError as error:
        _explain(console, error)
        return 2
    except SystemExit as exit_:  # tyro: --help, or a flag that it explained
        return exit_.code if isinstance(exit_.code, int) else 1
    return _run(options, console)


def _run(cfg: CacheActivationsRunnerConfig, console: Console) -> int:
    # Local, as torch and transformers take seconds to load.
    from transformers.utils import logging

    from saekit_core.lm.errors import LMError
    from saekit_trainer.cache.making import CacheActivationsRunner
    from saekit_trainer.errors import TrainerError

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _progress(console) as bar, warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.print(
                f"[yellow]warning:[/yellow] {escape(str(message))}", highlight=False, soft_wrap=True
            )
            task = bar.add_task("", total=None)
            runner = CacheActivationsRunner(
                cfg, show=lambda done, total: bar.update(task, completed=done, total=total)
            )
            index = runner.run()
    except (TrainerError, LMError, OSError) as error:
        _explain(console, error)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on", highlight=False)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    skipped = f", {index.skipped_samples:,} broken samples left out" * bool(index.skipped_samples)
    sys.stdout.write(
        f"{cfg.new_cached_activations_path}: {index.tokens:,} tokens in {len(index.shards)} "
        f"shards{skipped}\n"
    )
    return 0


def _interrupt(_: int, __: FrameType | None) -> Any:
    raise KeyboardInterrupt


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]caching[/bold]"),
        BarColumn(bar_width=24),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.completed:,.0f} tokens"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _explain(console: Console, error: Exception) -> None:
    console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
