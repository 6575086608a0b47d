"""TransformerLens' own processed weights, to hold the raw ones against."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from saekit_core.lm.model import LanguageModel
from saekit_core.lm.processing import CHANGED_BY
from saekit_core.lm.resid_mid import join_resid_mid

OPTIONS = tuple(CHANGED_BY)
OLD_DEFAULTS = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
"""What `HookedTransformer.from_pretrained` did when it was not told otherwise."""


def processed_bridge(model: LanguageModel, *options: str) -> Any:
    """A TransformerBridge of a copy of the model, in compatibility mode with only `options` on."""
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = copy.deepcopy(model.tokenizer.hf)
    tokenizer.init_kwargs |= {"add_bos_token": True, "name_or_path": model.name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = TransformerBridge.boot_transformers(
            model.name, hf_model=copy.deepcopy(model.hf), tokenizer=tokenizer, device="cpu"
        )
        bridge.enable_compatibility_mode(
            disable_warnings=True, **{option: option in options for option in OPTIONS}
        )
    join_resid_mid(bridge)  # as TransformerLens had it where these options come from
    return bridge
