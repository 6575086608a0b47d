"""Parameters that do not exist, and what to do instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from saekit_trainer.errors import ConfigError

_REMEDIES: Final = {
    "act_store_device": "activations stay on the model's device",
    "activations_mixing_fraction": "half of the buffer is replaced at a time",
    "autocast_data": "see autocast_lm",
    "dataset_trust_remote_code": "code from data sets is never run",
    "from_pretrained_path": "an SAE starts from fresh weights",
    "hook_eval": "it has no effect in SAELens either",
    "hook_head_index": "train on all heads of hook_z",
    "is_dataset_tokenized": "a column tokens or input_ids is recognised",
    "jumprelu_ste_to_input": "the straight-through gradient reaches the thresholds alone",
    "llm_device": "model and SAE share device",
    "log_activations_store_to_wandb": "the store can be made again from the seed",
    "log_optimizer_state_to_wandb": "see log_weights_to_wandb",
    "model_class_name": "any causal model of Hugging Face is recognised",
    "n_batches_for_norm_estimate": "the first batch serves",
    "n_eval_batches": "see eval_contexts",
    "reshape_activations": "heads are flattened where the hook point has them",
    "save_final_checkpoint": "it is always written",
    "sae_compilation_mode": "see compilation_mode",
    "llm_compilation_mode": "see compilation_mode",
    "use_matryoshka_aux_loss": "dead features explain what the whole SAE leaves over",
    "use_sparse_activations": "activations of topk kinds are always sparse",
    "verbose": "the runner's report shows how far it is",
}
"""Parameters of SAELens that have no counterpart here."""


def refuse_unknown(given: Iterable[str], known: tuple[str, ...]) -> None:
    """Refuse names that are not among the known ones.

    Raises:
        ConfigError: with the nearest known name, or with what to do instead.
    """
    for name in given:
        if name in known:
            continue
        if name in _REMEDIES:
            raise ConfigError(
                f"{name}: not supported; leave it out ({_REMEDIES[name]})", field=name
            )
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name}: no such parameter{hint}", field=name)
