"""Where the figures of a run go while it lasts: the same ones, by the same names, everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from saekit_trainer.errors import ConfigError
from saekit_trainer.logs.jsonl_log import JsonlLog
from saekit_trainer.logs.prometheus_log import PrometheusLog, check_port
from saekit_trainer.logs.tensorboard_log import TensorboardLog, require_tensorboard
from saekit_trainer.logs.wandb_log import WandbLog, require_wandb
from saekit_trainer.plan import SAEPlan
from saekit_trainer.results import RunObserver
from saekit_trainer.resuming import ResumePoint
from saekit_trainer.run_config import RunConfig


def check_logs(cfg: RunConfig) -> None:
    """Find out what is missing for the logs, before minutes of loading.

    Raises:
        ConfigError: a package, a login or the port.
    """
    if cfg.log_to_wandb:
        require_wandb()
    if cfg.log_to_tensorboard:
        require_tensorboard()
    if cfg.prometheus_port is not None:
        check_port(cfg.prometheus_host, cfg.prometheus_port)


def open_logs(
    cfg: RunConfig,
    plans: Mapping[str, SAEPlan],
    home: Path | None,
    resume: ResumePoint | None = None,
) -> list[RunObserver]:
    """Every log that `cfg` asks for.

    Args:
        plans: the SAEs by name; a lone one has the name "".
        home: folder of the run, if it has one.
        resume: what the run goes on from.

    Raises:
        ConfigError: one of them cannot be opened.
    """
    logs: list[RunObserver] = []
    if cfg.log_to_wandb:
        remembered = None if resume is None else resume.observers.get(WandbLog.__name__, {})
        logs.append(WandbLog(cfg, plans, remembered))
    if cfg.log_to_jsonl and home is not None:
        logs.append(JsonlLog(home / "metrics.jsonl", cfg.wandb_log_frequency))
    if cfg.log_to_tensorboard:
        if home is None:
            raise ConfigError("log_to_tensorboard: there is no folder", field="log_to_tensorboard")
        logs.append(TensorboardLog(home / "tensorboard", plans, cfg.wandb_log_frequency))
    if cfg.prometheus_port is not None:
        logs.append(PrometheusLog(cfg.prometheus_host, cfg.prometheus_port, plans))
    return logs
