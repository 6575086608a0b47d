"""Whether an SAE fits the model that this server runs."""

from __future__ import annotations

from typing import Any, Final

from saekit_core.lm.errors import LMError
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.model import LanguageModel
from saekit_core.sae import SAEConfig
from saekit_server.errors import precondition

_WITHOUT_EFFECT: Final = frozenset(
    {
        "cache_dir",
        "default_padding_side",
        "device",
        "device_map",
        "dtype",
        "local_files_only",
        "low_cpu_mem_usage",
        "n_devices",
        "revision",
        "token",
        "torch_dtype",
        "trust_remote_code",
    }
)
"""Arguments of a model's loading that leave the function it computes as it is."""


def model_processing(cfg: SAEConfig) -> dict[str, Any]:
    """How the weights of the model were processed when the SAE was trained.

    Empty for raw weights, which is what this server runs.
    """
    return {
        key: value
        for key, value in cfg.model_from_pretrained_kwargs.items()
        if value and key not in _WITHOUT_EFFECT
    }


def hook_points(cfg: SAEConfig, model: LanguageModel) -> tuple[HookPoint, HookPoint]:
    """Where in `model` an SAE reads and writes.

    Raises:
        DomainError: FAILED_PRECONDITION, if its metadata names no hook point of the model, or asks
            for a model whose weights are processed.
    """
    processing = model_processing(cfg)
    if processing:
        asked = ", ".join(f"{key}={value!r:.40}" for key, value in sorted(processing.items()))
        raise precondition(
            f"cfg.json: metadata.model_from_pretrained_kwargs asks for {asked}; this server runs "
            "the model's weights as they are"
        )
    name = cfg.hook_name
    if not name:
        raise precondition("cfg.json: metadata.hook_name: missing, so nobody knows where it reads")
    try:
        hook = model.hook_point(name)
        out = cfg.metadata.hook_name_out
        return hook, model.hook_point(out) if out else hook
    except LMError as error:
        raise precondition(f"cfg.json: {error} in {model.name}") from error
