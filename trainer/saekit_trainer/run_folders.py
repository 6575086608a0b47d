"""Where the SAEs of a run are written, and when before its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from saekit_core.sae.errors import SAEError
from saekit_core.sae.specs import check_sae_id
from saekit_trainer.errors import ConfigError
from saekit_trainer.plan import SAEPlan
from saekit_trainer.run_config import RunConfig

_NOT_OF_THE_RESULT: Final = frozenset(
    [
        "output_path",
        "checkpoint_path",
        "n_checkpoints",
        "run_name",
        "eval_every_n_wandb_logs",
        "eval_every_n_steps",
        "log_to_jsonl",
        "log_to_tensorboard",
        "html_report",
        "prometheus_port",
        "prometheus_host",
    ]
)


class RunFolders:
    """The folders of one run.

    Under checkpoint_path each run has a folder of its own: named after the SAE and a digest of
    everything that determines the weights, so that the same run always has the same place and two
    different ones never do.
    """

    def __init__(self, cfg: RunConfig, plans: Mapping[str, SAEPlan]) -> None:
        """
        Args:
            cfg: names the paths and the number of checkpoints.
            plans: the SAEs by name; a lone one has the name "".

        Raises:
            ConfigError: a name cannot be that of a folder.
        """
        for name in plans:
            _check_name(name)
        self._cfg = cfg
        self._written = 0
        self.checkpoints: Path | None = None
        if cfg.checkpoint_path is not None:
            self.checkpoints = Path(cfg.checkpoint_path) / (cfg.wandb_id or _run_name(plans))

    @property
    def home(self) -> Path | None:
        """Where what is about the whole run goes: metrics, report; None if nothing is written."""
        if self.checkpoints is not None:
            return self.checkpoints
        return None if self._cfg.output_path is None else Path(self._cfg.output_path)

    @property
    def report(self) -> Path | None:
        """The page about the run; None if there is to be none."""
        home = self.home if self._cfg.html_report else None
        return None if home is None else home.resolve() / "report.html"

    def checkpoint_due(self, step: int, total_steps: int) -> bool:
        """Whether a checkpoint is due after `step` of `total_steps`; says so once for each."""
        n = self._cfg.n_checkpoints
        reached = min(step * (n + 1) // total_steps, n) if step < total_steps else self._written
        due = reached > self._written
        self._written = max(reached, self._written)
        return due

    def of_checkpoint(self, name: str, tokens: int) -> Path:
        """Where the checkpoint of an SAE goes that has seen so many tokens."""
        assert self.checkpoints is not None
        return self.checkpoints / str(tokens) / name

    def of_finished(self, name: str, tokens: int) -> list[Path]:
        """Every place where the finished SAE goes, the first one to be told to people."""
        folders = []
        if self._cfg.output_path is not None:
            folders.append(Path(self._cfg.output_path) / name)
        if self.checkpoints is not None:
            folders.append(self.checkpoints / f"final_{tokens}" / name)
        return folders


def _run_name(plans: Mapping[str, SAEPlan]) -> str:
    values = {}
    for name, plan in plans.items():
        fields = asdict(plan.cfg)
        values[name] = {
            key: value
            for key, value in fields.items()
            if key not in _NOT_OF_THE_RESULT and "wandb" not in key
        }
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    first = next(iter(plans.values())).label
    return f"{first}-{digest}" if len(plans) == 1 else f"{len(plans)}-saes-{digest}"


def _check_name(name: str) -> None:
    if not name:
        return
    try:
        check_sae_id(name)
    except SAEError as error:
        raise ConfigError(f"saes: {error}", field="saes") from None
