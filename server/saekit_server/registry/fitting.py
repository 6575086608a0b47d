"""Whether an SAE fits the model that this server runs, and where in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from saekit_core.lm.errors import LMError
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.processing import CHANGED_BY, ProcessingError, is_centred
from saekit_core.sae import SAEConfig
from saekit_server.errors import DomainError, precondition

_KWARGS: Final = "metadata.model_from_pretrained_kwargs"

_WITHOUT_EFFECT: Final = frozenset(
    {
        "attn_implementation",
        "cache_dir",
        "default_padding_side",
        "device",
        "device_map",
        "dtype",
        "local_files_only",
        "low_cpu_mem_usage",
        "move_to_device",
        "n_devices",
        "token",
        "torch_dtype",
        "trust_remote_code",
    }
)
"""Arguments of a model's loading that leave the function it computes as it is, rounding apart."""


@dataclass(frozen=True)
class Place:
    """Where an SAE reads and writes, and whether on activations less their mean."""

    hook: HookPoint
    hook_out: HookPoint
    reads_centred: bool
    writes_centred: bool


def fit(cfg: SAEConfig, model: LanguageModel) -> Place:
    """The place of an SAE in `model`, whose weights are as they are.

    Raises:
        DomainError: FAILED_PRECONDITION, if its metadata names no hook point of the model, or was
            trained on a model whose activations there cannot be had from this one.
    """
    name = cfg.hook_name
    if not name:
        raise precondition(
            "cfg.json: metadata.hook_name: missing, so nobody knows where it reads; for a format "
            "that does not say, name the SAE's folder after the hook point"
        )
    try:
        hook = model.hook_point(name)
        out = cfg.metadata.hook_name_out
        hook_out = model.hook_point(out) if out else hook
    except LMError as error:
        raise precondition(f"cfg.json: {error} in {model.name}") from error
    options = processing(cfg, model)
    try:
        return Place(
            hook, hook_out, is_centred(options, hook, model), is_centred(options, hook_out, model)
        )
    except ProcessingError as error:
        raise precondition(
            f"cfg.json: {_KWARGS}: {error}; this server runs the model's weights as they are"
        ) from error


def processing(cfg: SAEConfig, model: LanguageModel) -> list[str]:
    """TransformerLens' options that processed the weights of the model that the SAE was trained on.

    Raises:
        DomainError: FAILED_PRECONDITION, if it was loaded in a way that may change what it computes
            and that this server does not know.
    """
    options = []
    for key, value in sorted(cfg.model_from_pretrained_kwargs.items()):
        if value is None or key in _WITHOUT_EFFECT:
            continue
        if key in CHANGED_BY and isinstance(value, bool):
            options += [key] if value else []
        elif not (key == "revision" and _is_revision(value, model)):
            raise _unserved(key, value, model)
    return options


def _is_revision(asked: object, model: LanguageModel) -> bool:
    """Whether `model` may be that revision; for a folder, its owner alone knows."""
    return model.ref is None or asked == model.ref or model.revision.startswith(str(asked))


def _unserved(key: str, value: object, model: LanguageModel) -> DomainError:
    runs = f"{model.name} at {model.ref or model.revision}, its weights as they are"
    return precondition(
        f"cfg.json: {_KWARGS}: asks for {key}={value!r:.40}; this server runs {runs}"
    )
