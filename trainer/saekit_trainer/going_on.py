"""What a run that ends early says of how to go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saekit_trainer.plan import SAEPlan

NOTHING = "nothing to go on from is kept without checkpoint_path and n_resume_states"


def go_on(states: Sequence[Path] | None) -> str:
    """How the same run goes on.

    Args:
        states: there are, oldest first; None: none are written.
    """
    if states is None:
        return NOTHING
    if not states:
        return "no state was written yet, so it has to begin anew"
    return f'the same run with resume_from_checkpoint="latest" (--resume) goes on from {states[-1]}'


def go_on_slower(states: Sequence[Path] | None, plan: SAEPlan) -> str:
    """How a run goes on that diverged: it would diverge again as it is."""
    rate = f"{plan.optimization.schedule.peak / 4:.2g}"
    also = ", or autocast=False" if plan.optimization.autocast else ""
    if not states:
        why = NOTHING if states is None else "no state was written before it"
        return f"{why}; begin anew with a lower learning rate, such as lr={rate}{also}"
    older = f" (or from {states[-2]}, if that is too late)" if len(states) > 1 else ""
    return (
        f"go on from {states[-1]}{older}, with a lower learning "
        f'rate{also}: resume_from_checkpoint="{states[-1]}", resume_changes=["lr"], lr={rate}'
    )
