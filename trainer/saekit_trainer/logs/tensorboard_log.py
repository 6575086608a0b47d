"""The figures of a run as TensorBoard's event files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saekit_trainer.errors import ConfigError
from saekit_trainer.logs.metrics_log import Figures, MetricsLog
from saekit_trainer.plan import SAEPlan


def require_tensorboard() -> Any:
    """The class that writes event files.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "log_to_tensorboard: the tensorboard package is missing; "
            "pip install 'saekit[tensorboard]'",
            field="log_to_tensorboard",
        ) from None
    return SummaryWriter


class TensorboardLog(MetricsLog):
    """One TensorBoard run per SAE, so that each chart there shows several SAEs as curves."""

    def __init__(self, folder: Path, plans: Mapping[str, SAEPlan], every: int) -> None:
        super().__init__(every)
        self._folder = folder
        self._plans = plans
        self._open = require_tensorboard()
        self._writers: dict[str, Any] = {}

    def began(self, step: int, tokens: int) -> None:
        super().began(step, tokens)
        # TensorBoard then hides what older files say of this step and later ones.
        for name, plan in {"": None, **self._plans}.items():
            self._writers[name] = self._open(str(self._folder / name), purge_step=step + 1)
            if plan is not None:
                config = json.dumps(asdict(plan.cfg), indent=1, default=str)
                self._writers[name].add_text("configuration", f"```json\n{config}\n```", step)

    def record(self, step: int, saes: Mapping[str, Figures], run: Figures) -> None:
        for name, figures in (*saes.items(), ("", run)):
            for key, value in figures.items():
                self._writers[name].add_scalar(key, value, step)

    def closed(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
