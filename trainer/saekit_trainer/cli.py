"""`saekit train`: an SAE from the command line."""

from __future__ import annotations

import json
import sys
import tomllib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import ConfigError

EXAMPLES = """Train a sparse autoencoder and write a folder that a server can load.

Examples:

  saekit train --out my-sae
      A topk SAE on the embedded model, on text that the model writes itself.

  saekit train --publish saes --sae-id fresh --max-seconds 30
      The same within half a minute, put into a folder that a server watches.

  saekit train --model-name gpt2 --hook-name blocks.8.hook_resid_pre --architecture jumprelu
      --d-sae 24576 --dataset-path stories.txt --training-tokens 50000000 --out gpt2-l8

  saekit train --config run.toml --lr 3e-4 --out my-sae
      Values of a TOML file, one of them overridden.
"""

_Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class TrainOptions:
    """What `saekit train` does, beside the run itself."""

    run: Annotated[LanguageModelSAERunnerConfig, _Flat] = field(
        default_factory=LanguageModelSAERunnerConfig
    )
    config: Path | None = None
    """TOML file with values for the flags of the run, by their names; flags override it."""
    out: Path | None = None
    """Folder to write the finished SAE to (checkpoint_path by another name)."""
    publish: Path | None = None
    """Folder, as a server watches one, in which the finished SAE appears under its sae_id."""
    sae_id: str | None = None
    """Name of the published SAE; HOOK-ARCHITECTURE-D_SAE by default."""
    json: bool = False
    """Print the final metrics as one JSON object on stdout, and nothing else there."""


def train(argv: list[str]) -> int:
    """Run `saekit train` with the arguments that follow it.

    Returns:
        The exit status: 0, or 1 after an error that was explained on stderr, 2 for wrong usage.
    """
    console = Console(stderr=True)
    try:
        options = parse_options(argv)
    except ConfigError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        return 2
    except SystemExit as exit_:  # tyro: --help, or a flag that it explained
        return exit_.code if isinstance(exit_.code, int) else 1
    return _run(options, console)


def parse_options(argv: list[str]) -> TrainOptions:
    """Flags over the values of the TOML file that `--config` names, over defaults.

    Raises:
        ConfigError: the file or a value in it cannot be used, or nothing is to be written.
        SystemExit: by tyro, after help or an explained error.
    """
    default = TrainOptions(run=LanguageModelSAERunnerConfig.from_dict(_config_file(argv)))
    options = tyro.cli(
        TrainOptions,
        prog="saekit train",
        description=EXAMPLES,
        args=argv,
        default=default,
    )
    if options.out is None and options.run.checkpoint_path is None and options.publish is None:
        raise ConfigError("out: give --out FOLDER, --publish FOLDER, or both", field="out")
    if options.sae_id is not None and options.publish is None:
        raise ConfigError("sae_id: has a meaning only with --publish", field="sae_id")
    return options


def _config_file(argv: list[str]) -> dict[str, Any]:
    for i, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag == "--config":
            path = value if equals else argv[i + 1] if i + 1 < len(argv) else ""
            try:
                return tomllib.loads(Path(path).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"config: cannot read {path!r} ({error})", field="config"
                ) from None
    return {}


def _run(options: TrainOptions, console: Console) -> int:
    from dataclasses import replace

    from transformers.utils import logging

    from saekit_core.lm.errors import LMError
    from saekit_core.sae.errors import SAEError
    from saekit_trainer.display import TrainingDisplay
    from saekit_trainer.errors import TrainerError
    from saekit_trainer.publish import publish_sae, publish_target
    from saekit_trainer.runner import SAETrainingRunner

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    cfg = options.run
    if options.out is not None:
        cfg = replace(cfg, checkpoint_path=str(options.out))
    try:
        with TrainingDisplay(console) as display, warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.print(
                f"[yellow]warning:[/yellow] {message}", highlight=False, soft_wrap=True
            )
            runner = SAETrainingRunner(cfg, report=display)
            sae_id = options.sae_id or (
                f"{runner.plan.hook.name}-{cfg.architecture}-{runner.plan.sae.d_sae}"
            )
            if options.publish is not None:
                publish_target(options.publish, sae_id)
            runner.run()
        assert runner.result is not None
        result = runner.result
        summary = result.summary()
        if options.publish is not None:
            folder = publish_sae(result.sae, options.publish, sae_id, features=result.features)
            summary |= {"sae_id": sae_id, "published": str(folder)}
    except (TrainerError, LMError, SAEError, OSError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was written", highlight=False)
        return 130
    if options.json:
        sys.stdout.write(json.dumps(summary) + "\n")
    else:
        _print_summary(summary)
    return 0


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
        "written to": summary["folder"] or "",
        "published as": f"{summary.get('sae_id', '')} {summary.get('published', '')}".strip(),
    }
    for name, value in rows.items():
        if value:
            table.add_row(f"[bold]{name}[/bold]", value)
    Console().print(table)
