"""An SAE at the hook points of a model, as its metadata name them."""

from __future__ import annotations

from torch import Tensor

from saekit_core.lm.bridged import TappedModel
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.interventions import BoundSAE
from saekit_core.sae.sae import SAE
from saekit_trainer.errors import ConfigError


def bind_sae(model: TappedModel, sae: SAE) -> BoundSAE:
    """`sae` where it reads and writes in `model`: two places for a transcoder, else one.

    Raises:
        ConfigError: its metadata name no hook point.
        InterventionError: it does not fit there, or needs whole sequences.
        UnknownHookPointError: the model has no hook point of that name.
    """
    metadata = sae.cfg.metadata
    if metadata.hook_name is None:
        raise ConfigError("sae: its metadata name no hook point", field="hook_name")
    hook = model.hook_point(metadata.hook_name)
    out = metadata.hook_name_out
    return BoundSAE(
        sae=sae,
        sae_id=f"the SAE of {hook.name}",
        revision="",
        hook=hook,
        hook_out=model.hook_point(out) if out else hook,
        key=id(sae),
    )


def activations_at(bound: BoundSAE, hook: HookPoint, h: Tensor) -> Tensor:
    """What `bound` reads or writes of the activations `h` at `hook`: ``[prompts, context, d]``."""
    return h.flatten(2)[..., bound.columns(hook)]
