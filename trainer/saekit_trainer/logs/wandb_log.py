"""Metrics of a run to Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saekit_trainer.errors import ConfigError
from saekit_trainer.logs.metrics_log import Figures, MetricsLog, flat
from saekit_trainer.plan import SAEPlan
from saekit_trainer.run_config import RunConfig


def require_wandb() -> Any:
    """The wandb package, ready to log.

    Raises:
        ConfigError: it is not installed, or nobody is logged in and it is to be online.
    """
    try:
        import wandb
    except ImportError:
        raise ConfigError(
            "log_to_wandb: the wandb package is missing; pip install 'saekit[wandb]'",
            field="log_to_wandb",
        ) from None
    if os.environ.get("WANDB_MODE", "online") in ("offline", "disabled", "dryrun"):
        return wandb
    try:
        wandb.login()
    except wandb.errors.Error as error:
        raise ConfigError(
            f"log_to_wandb: {error} Or keep the log on this machine with WANDB_MODE=offline in "
            "the environment.",
            field="log_to_wandb",
        ) from None
    return wandb


class WandbLog(MetricsLog):
    """Logs the metrics of each SAE by name: ``l0``, or ``NAME/l0`` where there are several SAEs."""

    def __init__(
        self,
        cfg: RunConfig,
        plans: Mapping[str, SAEPlan],
        remembered: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the run there.

        Args:
            remembered: `memory` of the log that is gone on with; None for a run that begins.

        Raises:
            ConfigError: as `require_wandb`, or the run cannot be opened.
        """
        super().__init__(cfg.wandb_log_frequency)
        self._wandb = require_wandb()
        self._cfg = cfg
        try:
            self._run = self._wandb.init(
                project=cfg.wandb_project,
                entity=cfg.wandb_entity,
                id=cfg.wandb_id or (remembered or {}).get("id"),
                resume=None if remembered is None else "allow",
                name=cfg.run_name or _run_name(cfg, plans),
                config={name or "sae": asdict(plan.cfg) for name, plan in plans.items()},
            )
        except self._wandb.errors.Error as error:
            raise ConfigError(f"log_to_wandb: {error}", field="log_to_wandb") from None

    def memory(self) -> dict[str, Any]:
        return {"id": self._run.id}

    def record(self, step: int, saes: Mapping[str, Figures], run: Figures) -> None:
        self._run.log(flat(saes, run), step=step)

    def folder_written(self, name: str, folder: Path) -> None:
        if not self._cfg.log_weights_to_wandb:
            return
        artifact = self._wandb.Artifact(f"{name or 'sae'}-{self._run.id}", type="model")
        artifact.add_dir(str(folder))
        self._run.log_artifact(artifact, aliases=[folder.name])

    def closed(self) -> None:
        self._run.finish()


def _run_name(cfg: RunConfig, plans: Mapping[str, SAEPlan]) -> str:
    plan = next(iter(plans.values()))
    lr = plan.optimization.schedule.peak
    what = f"{plan.cfg.architecture}-{plan.sae.d_sae}" if len(plans) == 1 else f"{len(plans)}-saes"
    return f"{what}-lr-{lr:.2g}-tokens-{cfg.training_tokens:.3g}"
