"""What a configuration may say of going on."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

from saekit_trainer.errors import ConfigError

if TYPE_CHECKING:
    from saekit_trainer.run_config import RunConfig

LATEST: Final = "latest"
"""As resume_from_checkpoint: the newest state there is."""
CHANGEABLE: Final = frozenset(
    [
        "lr",
        "lr_end",
        "lr_scheduler_name",
        "lr_warm_up_steps",
        "lr_decay_steps",
        "n_restart_cycles",
        "adam_beta1",
        "adam_beta2",
        "l1_coefficient",
        "l1_warm_up_steps",
        "lp_norm",
        "k",
        "aux_k_coefficient",
        "pre_act_loss_coefficient",
        "target_l0",
        "jumprelu_bandwidth",
        "topk_threshold_lr",
        "use_ghost_grads",
        "dead_feature_window",
        "dead_feature_threshold",
        "training_tokens",
        "max_seconds",
        "autocast",
        "autocast_lm",
    ]
)
"""What has an effect on steps to come, whatever it was in those that are done."""


def check_resuming(cfg: RunConfig) -> None:
    """Refuse what has no meaning.

    Raises:
        ConfigError: naming the field and what was expected.
    """
    if cfg.resume_from_checkpoint == LATEST and cfg.checkpoint_path is None:
        raise ConfigError(
            f"resume_from_checkpoint: {LATEST}, but checkpoint_path names no folder to look in",
            field="resume_from_checkpoint",
        )
    if cfg.resume_changes and cfg.resume_from_checkpoint is None:
        raise ConfigError(
            "resume_changes: has a meaning only with resume_from_checkpoint", field="resume_changes"
        )
    for name in cfg.resume_changes:
        if name not in CHANGEABLE:
            near = difflib.get_close_matches(name, CHANGEABLE, n=1)
            hint = f"did you mean {near[0]}?" if near else f"of {', '.join(sorted(CHANGEABLE))}"
            raise ConfigError(
                f"resume_changes: {name!r} cannot change on the way; {hint}", field="resume_changes"
            )
