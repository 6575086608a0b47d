"""When a run is evaluated before its end."""

from __future__ import annotations

from saekit_trainer.run_config import RunConfig


def evaluation_due(cfg: RunConfig, step: int, total_steps: int) -> bool:
    """Whether SAEs are evaluated on held-out contexts after `step` of `total_steps`."""
    every = cfg.eval_every_n_steps
    if every is None:
        every = cfg.wandb_log_frequency * cfg.eval_every_n_wandb_logs
    # The last step's evaluation comes with the finished SAE.
    return every > 0 and step % every == 0 and step < total_steps
