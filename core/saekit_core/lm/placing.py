"""Where an SAE belongs in a model, as its metadata say."""

from __future__ import annotations

from dataclasses import dataclass

from saekit_core.lm.bridged import TappedModel
from saekit_core.lm.errors import LMError
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.interventions import BoundSAE
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.processing import is_centred, processing_of
from saekit_core.sae import SAE, SAEConfig


@dataclass(frozen=True)
class SAEPlace:
    """Where an SAE reads and writes, and whether on activations less their mean."""

    hook: HookPoint
    hook_out: HookPoint
    """The same as `hook` but for transcoders."""
    reads_centred: bool
    writes_centred: bool


def find_place(cfg: SAEConfig, model: TappedModel) -> SAEPlace:
    """The place of an SAE in `model`.

    A `LanguageModel` has its weights as they are, so an SAE of processed weights is given what it
    knows where that can be had. A bridge is taken at its word: its owner has processed its weights
    or not.

    Raises:
        LMError: the metadata name no hook point.
        UnknownHookPointError: they name one that the model does not have.
        ProcessingError: the SAE was trained on activations that cannot be had from this model.
    """
    if not cfg.hook_name:
        raise LMError(
            "metadata.hook_name: missing, so nobody knows where it reads; for a format that does "
            "not say, name the SAE's folder after the hook point",
            field="hook_name",
        )
    hook = model.hook_point(cfg.hook_name)
    out = cfg.metadata.hook_name_out
    hook_out = model.hook_point(out) if out else hook
    if not isinstance(model, LanguageModel):
        return SAEPlace(hook, hook_out, reads_centred=False, writes_centred=False)
    options = processing_of(cfg, model)
    return SAEPlace(
        hook,
        hook_out,
        reads_centred=is_centred(options, hook, model),
        writes_centred=is_centred(options, hook_out, model),
    )


def bind_sae(model: TappedModel, sae: SAE) -> BoundSAE:
    """`sae` at its place in `model`.

    Raises:
        LMError: it has none, as `find_place` says, or does not fit there.
    """
    place = find_place(sae.cfg, model)
    return BoundSAE(
        sae,
        f"the SAE of {place.hook.name}",
        "",
        place.hook,
        place.hook_out,
        id(sae),
        place.reads_centred,
        place.writes_centred,
    )
