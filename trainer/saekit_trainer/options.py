"""The arguments of `saekit train`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import ConfigError
from saekit_trainer.multi_config import MultiSAETrainingRunnerConfig
from saekit_trainer.resume_options import LATEST
from saekit_trainer.run_config import RunConfig

EXAMPLES = """Train a sparse autoencoder and write a folder that a server can load.

Examples:

  saekit train --out my-sae
      A topk SAE on the embedded model, on text that the model writes itself.

  saekit train --publish saes --sae-id fresh --max-seconds 30
      The same within half a minute, put into a folder that a server watches.

  saekit train --publish saes --publish-checkpoints --checkpoint-path runs --n-checkpoints 20
      A server that watches the folder serves the SAE while it is trained.

  saekit train --model-name gpt2 --hook-name blocks.8.hook_resid_pre --architecture jumprelu
      --d-sae 24576 --dataset-path stories.txt --training-tokens 50000000 --out gpt2-l8

  saekit train --config run.toml --lr 3e-4 --out my-sae
      Values of a TOML file, one of them overridden.

  saekit train --config run.toml --checkpoint-path runs --out my-sae --resume
      The same again after it was killed or interrupted: it goes on, to the very same SAE.

  torchrun --nproc-per-node 8 -m saekit_trainer --config run.toml --out my-sae
      The same on eight GPUs, to the same SAE; --shard-features for one that is too wide for a GPU.

  saekit train cache-activations --help
      Activations on disk, to train on more than once.
"""

T = TypeVar("T", bound=RunConfig)
_Flat = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class WhatToDo:
    """What `saekit train` does, beside the run itself."""

    config: Path | None = None
    """TOML file with values for the flags of the run, by their names; flags override it. A table
    [saes.NAME] for each of several SAEs, with what is its own, trains them all at once."""
    out: Path | None = None
    """Folder to write the finished SAE to (output_path by another name), or several by name."""
    publish: Path | None = None
    """Folder, as a server watches one, in which the finished SAE appears under its sae_id."""
    sae_id: str | None = None
    """Name of the published SAE; HOOK-ARCHITECTURE-D_SAE by default. Several are SAE_ID/NAME, or
    NAME by default."""
    publish_checkpoints: bool = False
    """Publish every checkpoint as well (checkpoint_path, n_checkpoints): a server that watches the
    folder serves the SAE while it is trained."""
    push_to_hub: str | None = None
    """Hugging Face repository USER/REPO that the finished SAEs are uploaded to, as by saekit
    upload."""
    private: bool = False
    """Make that repository private."""
    progress: Literal["auto", "live", "lines", "none"] = "auto"
    """How the run is shown on stderr: live figures, a line every few seconds, nothing; live in a
    terminal and lines elsewhere by default."""
    resume: bool = False
    """Go on from the newest state of this run under checkpoint_path, if there is one, to the very
    same SAE; the same as --resume-from-checkpoint latest."""
    json: bool = False
    """Print the final metrics as one JSON object on stdout, and nothing else there."""


@dataclass(frozen=True, kw_only=True)
class OneSAE(WhatToDo):
    """A run that trains one SAE."""

    run: Annotated[LanguageModelSAERunnerConfig, _Flat] = field(
        default_factory=LanguageModelSAERunnerConfig
    )


@dataclass(frozen=True, kw_only=True)
class SeveralSAEs(WhatToDo):
    """A run that trains the SAEs of the tables [saes.NAME]."""

    run: Annotated[MultiSAETrainingRunnerConfig, _Flat]


def parse_options(argv: list[str]) -> OneSAE | SeveralSAEs:
    """Flags over the values of the TOML file that `--config` names, over defaults.

    Raises:
        ConfigError: the file or a value in it cannot be used, or nothing is to be written.
        SystemExit: by tyro, after help or an explained error.
    """
    values = _config_file(argv)
    default: OneSAE | SeveralSAEs
    if "saes" in values:
        default = SeveralSAEs(run=MultiSAETrainingRunnerConfig.from_dict(values))
    else:
        default = OneSAE(run=LanguageModelSAERunnerConfig.from_dict(values))
    options: OneSAE | SeveralSAEs = tyro.cli(
        type(default),
        # The nested groups are for Python and TOML; here each of their values has its flat flag.
        config=(tyro.conf.AvoidSubcommands,),
        prog="saekit train",
        description=EXAMPLES,
        args=argv,
        default=default,
    )
    places = (options.out, options.publish, options.run.output_path, options.run.checkpoint_path)
    if not any(places):
        raise ConfigError("out: give --out FOLDER, --publish FOLDER, or both", field="out")
    if options.sae_id is not None and options.publish is None:
        raise ConfigError("sae_id: has a meaning only with --publish", field="sae_id")
    if options.publish_checkpoints and not (options.publish and options.run.n_checkpoints):
        raise ConfigError(
            "publish_checkpoints: needs --publish, --checkpoint-path and --n-checkpoints",
            field="publish_checkpoints",
        )
    if options.private and options.push_to_hub is None:
        raise ConfigError("private: has a meaning only with --push-to-hub", field="private")
    if not options.resume:
        return options
    if isinstance(options, OneSAE):
        return replace(options, run=_resuming(options.run))
    return replace(options, run=_resuming(options.run))


def _resuming(run: T) -> T:
    if run.resume_from_checkpoint not in (None, LATEST):
        raise ConfigError(
            f"resume: is from the latest state, resume_from_checkpoint says "
            f"{run.resume_from_checkpoint}; give one of them",
            field="resume",
        )
    if run.checkpoint_path is None:
        raise ConfigError(
            "resume: give --checkpoint-path, the folder in which the run's states are",
            field="resume",
        )
    return replace(run, resume_from_checkpoint=LATEST)


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
