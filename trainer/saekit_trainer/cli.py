"""`saekit train`: an SAE from the command line."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from saekit_trainer.distributed.environment import is_main_process, process_count

if TYPE_CHECKING:
    from saekit_trainer.options import OneSAE, SeveralSAEs, WhatToDo
    from saekit_trainer.results import RunObserver, TrainingResult
    from saekit_trainer.resuming import ResumePoint


def train(argv: list[str]) -> int:
    """Run `saekit train` with the arguments that follow it.

    Returns:
        The exit status: 0, or 1 after an error that was explained on stderr, 2 for wrong usage,
        130 or 143 after SIGINT or SIGTERM, when the run can be gone on with.
    """
    # Threads that sleep while they wait: beside other work on the same cores, spinning ones made a
    # run half as fast. Read when torch is loaded, which is why imports are local here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Of several processes, one speaks for all.
    console = Console(stderr=True, quiet=not is_main_process())
    if argv[:1] == ["cache-activations"] and process_count() == 1:
        from saekit_trainer.cache.cli import cache_activations

        return cache_activations(argv[1:])
    from saekit_trainer.errors import ConfigError
    from saekit_trainer.options import parse_options

    try:
        if argv[:1] == ["cache-activations"]:
            raise ConfigError("cache-activations: runs in one process; start it without torchrun")
        options = parse_options(argv)
    except ConfigError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except SystemExit as exit_:  # tyro: --help, or a flag that it explained
        return exit_.code if isinstance(exit_.code, int) else 1
    return _run(options, console)


def _run(options: OneSAE | SeveralSAEs, console: Console) -> int:
    from transformers.utils import logging

    from saekit_core.lm.errors import LMError
    from saekit_core.sae.errors import SAEError
    from saekit_trainer.display import TrainingDisplay
    from saekit_trainer.distributed.joining import join_ranks, joined_ranks
    from saekit_trainer.errors import TrainerError, TrainingInterrupted
    from saekit_trainer.options import SeveralSAEs
    from saekit_trainer.summary import print_summaries

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with TrainingDisplay(console, options.progress) as display, warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.print(
                f"[yellow]warning:[/yellow] {escape(str(message))}", highlight=False, soft_wrap=True
            )
            join_ranks(options.run.device)
            results = _train(options, display, console)
        if not is_main_process():
            return 0
        summaries = {
            name: result.summary() | _publish(options, name, result)
            for name, result in results.items()
        }
    except (TrainerError, LMError, SAEError, OSError) as error:
        ranks = joined_ranks()
        # Those that fail later do so because of this one, or all for the same reason.
        if ranks.is_first_to_fail():
            who = f"{ranks.label}: " if ranks.label else ""
            explained = Console(stderr=True)
            what = f"[red]error:[/red] {who}{escape(str(error))}"
            explained.print(what, highlight=False, soft_wrap=True)
        return 1
    except TrainingInterrupted as stop:
        console.print(str(stop), highlight=False, soft_wrap=True, markup=False)
        return stop.exit_code
    except KeyboardInterrupt:
        console.print("stopped by SIGINT before the first step", highlight=False)
        return 130
    status = _upload(options, results, summaries, console)
    if options.json:
        several = isinstance(options, SeveralSAEs)
        shown = summaries if several else next(iter(summaries.values()))
        sys.stdout.write(json.dumps(shown) + "\n")
    else:
        print_summaries(summaries, Console())
    return status


def _train(
    options: OneSAE | SeveralSAEs, display: RunObserver, console: Console
) -> dict[str, TrainingResult]:
    """The finished SAEs by sae_id."""
    from dataclasses import replace

    from saekit_trainer.options import OneSAE
    from saekit_trainer.publish import CheckpointPublisher, publish_target
    from saekit_trainer.runner import MultiSAETrainingRunner, SAETrainingRunner

    _check_upload(options)
    out = options.run.output_path if options.out is None else str(options.out)
    observers = [display]
    sae_ids: dict[str, str] = {}  # known when the model is
    if options.publish is not None and options.publish_checkpoints:
        observers.append(CheckpointPublisher(options.publish, sae_ids))
    if isinstance(options, OneSAE):
        one = SAETrainingRunner(replace(options.run, output_path=out), observers=observers)
        sae_ids[""] = options.sae_id or one.plan.label
    else:
        several = MultiSAETrainingRunner(replace(options.run, output_path=out), observers=observers)
        prefix = "" if options.sae_id is None else f"{options.sae_id}/"
        sae_ids |= {name: prefix + name for name in several.plans}
    if options.publish is not None:
        for sae_id in sae_ids.values():
            publish_target(options.publish, sae_id)  # what is wrong with it is said at once
    _tell_beginning(options, one.resume if isinstance(options, OneSAE) else several.resume, console)
    if isinstance(options, OneSAE):
        one.run()
        assert one.result is not None
        return {sae_ids[""]: one.result}
    several.run()
    return {sae_ids[name]: result for name, result in several.results.items()}


def _tell_beginning(options: WhatToDo, point: ResumePoint | None, console: Console) -> None:
    if point is not None:
        told = f"going on from {point.folder}, after step {point.step} of {point.total_steps}"
    elif options.resume:
        told = "no state to go on from; the run begins anew"
    else:
        return
    console.print(told, highlight=False, soft_wrap=True, markup=False)


def _publish(options: OneSAE | SeveralSAEs, sae_id: str, result: TrainingResult) -> dict[str, str]:
    """Publish an SAE if it is to be; what the summary says of it."""
    from saekit_trainer.publish import publish_sae
    from saekit_trainer.serving import serve_command

    model_name = options.run.model_name
    if options.publish is None:
        if result.folder is None:
            return {}
        return {"serve": serve_command(result.folder, model_name)}
    folder = publish_sae(result.sae, options.publish, sae_id, features=result.features)
    root = Path(options.publish).resolve()
    return {
        "sae_id": sae_id,
        "published": str(folder),
        "serve": serve_command(root / sae_id, model_name, root),
    }


def _check_upload(options: OneSAE | SeveralSAEs) -> None:
    """Find out before the run what would keep its end from being uploaded.

    Raises:
        SAEUploadError: no token, no such name.
        ConfigError: there would be no folder to upload.
    """
    if options.push_to_hub is None:
        return
    from saekit_core.sae.hub_repo import HubRepo
    from saekit_trainer.errors import ConfigError

    if not (options.out or options.run.output_path or options.run.checkpoint_path):
        raise ConfigError("push_to_hub: needs --out or --checkpoint-path", field="push_to_hub")
    HubRepo(options.push_to_hub, "main", None)


def _upload(
    options: OneSAE | SeveralSAEs,
    results: dict[str, TrainingResult],
    summaries: dict[str, dict[str, Any]],
    console: Console,
) -> int:
    """Upload the folders if they are to be, and put it into their summaries.

    Returns:
        The exit status: 1 if it failed, which takes nothing from the run.
    """
    from saekit_core.sae.errors import SAEError
    from saekit_core.sae.upload import upload_saes_to_huggingface
    from saekit_trainer.options import OneSAE

    if options.push_to_hub is None:
        return 0
    folders = {name: result.folder for name, result in results.items() if result.folder}
    try:
        done = upload_saes_to_huggingface(
            list(folders.values()) if isinstance(options, OneSAE) else folders,
            options.push_to_hub,
            show_progress=options.progress != "none" and sys.stderr.isatty(),
            private=options.private,
        )
    except (SAEError, OSError) as error:
        console.print(
            f"[red]error:[/red] not uploaded: {escape(str(error))}; try again with saekit upload",
            highlight=False,
            soft_wrap=True,
        )
        return 1
    for summary in summaries.values():
        summary["uploaded"] = done.url
    return 0
