"""One language model: loading it, its hook points, SAEs spliced into its runs, steering."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saekit_core.lm.boot import boot_model as boot_model
    from saekit_core.lm.errors import LMError as LMError
    from saekit_core.lm.errors import ModelNotFoundError as ModelNotFoundError
    from saekit_core.lm.errors import UnknownHookPointError as UnknownHookPointError
    from saekit_core.lm.errors import UnsupportedModelError as UnsupportedModelError
    from saekit_core.lm.hooked import HookedSAETransformer as HookedSAETransformer
    from saekit_core.lm.model import LanguageModel as LanguageModel

__all__ = [
    "HookedSAETransformer",
    "LMError",
    "LanguageModel",
    "ModelNotFoundError",
    "UnknownHookPointError",
    "UnsupportedModelError",
    "boot_model",
]

_HOMES = {
    "HookedSAETransformer": "hooked",
    "LMError": "errors",
    "LanguageModel": "model",
    "ModelNotFoundError": "errors",
    "UnknownHookPointError": "errors",
    "UnsupportedModelError": "errors",
    "boot_model": "boot",
}


def __getattr__(name: str) -> Any:
    # Nobody who needs an error class should wait for transformers and TransformerLens.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
