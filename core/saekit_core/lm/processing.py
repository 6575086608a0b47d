"""What TransformerLens' processing of a model's weights makes of its activations.

`HookedTransformer` can rewrite a model's weights so that the same log-probabilities come out of
activations that are easier to read: `center_writing_weights` and its kind. SAEs trained there want
those activations, while a model that serves several SAEs runs its weights as they are. This is the
table of which hook points tell the two apart. It was measured, for HookedTransformer of
TransformerLens 3.9 and the compatibility mode of 4.3 alike; `tests/core/lm/test_processing.py`
measures it again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from saekit_core.lm.errors import LMError

if TYPE_CHECKING:
    from saekit_core.lm.hook_points import HookPoint
    from saekit_core.lm.model import LanguageModel
    from saekit_core.sae import SAEConfig


class ProcessingError(LMError):
    """Processed weights give activations at a hook point that raw weights cannot stand in for."""


class Kind(Enum):
    """Hook points that all processing treats alike."""

    STREAM = "what the residual stream holds and what is written to it"
    NORMALISED = "the output of a normalisation, with its gain and bias"
    QUERIES_AND_KEYS = "queries and keys"
    VALUES = "values, and their mixtures (hook_z)"
    LOGITS = "logits"
    INNER = "the rest inside a layer: normalised without gain, MLP before and behind its activation"


_KINDS: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        Kind.STREAM: (
            "embed.hook_out pos_embed.hook_out hook_in hook_out"
            " ln1.hook_in ln2.hook_in ln_final.hook_in"
            " attn.hook_out attn.o.hook_out mlp.hook_out mlp.out.hook_out"
            " ln1_post.hook_in ln1_post.hook_out ln2_post.hook_in ln2_post.hook_out"
        ),
        Kind.NORMALISED: (
            "ln1.hook_out attn.hook_in attn.q.hook_in attn.k.hook_in attn.v.hook_in"
            " ln2.hook_out mlp.hook_in mlp.in.hook_in mlp.gate.hook_in"
            " ln_final.hook_out unembed.hook_in"
        ),
        Kind.QUERIES_AND_KEYS: "attn.q.hook_out attn.k.hook_out",
        Kind.VALUES: "attn.v.hook_out attn.o.hook_in",
        Kind.LOGITS: "unembed.hook_out",
        Kind.INNER: (
            "ln1.hook_normalized ln1_post.hook_normalized ln2.hook_normalized"
            " ln2_post.hook_normalized ln_final.hook_normalized"
            " mlp.in.hook_out mlp.gate.hook_out mlp.out.hook_in"
        ),
    }
)
_KIND_OF: Final = {name: kind for kind, names in _KINDS.items() for name in names.split()}
"""Canonical name within its block -> kind. What is not here was not measured."""

CENTRING: Final = "center_writing_weights"

CHANGED_BY: Final[Mapping[str, frozenset[Kind]]] = MappingProxyType(
    {
        "fold_ln": frozenset({Kind.NORMALISED}),
        CENTRING: frozenset({Kind.STREAM}),
        "center_unembed": frozenset({Kind.LOGITS}),
        "fold_value_biases": frozenset({Kind.VALUES}),
        "refactor_factored_attn_matrices": frozenset({Kind.QUERIES_AND_KEYS, Kind.VALUES}),
    }
)
"""Option of TransformerLens -> where it changes activations. Everywhere else they are the same."""

CENTRED_ARCHITECTURES: Final = (
    "GPT2LMHeadModel",
    "GPTJForCausalLM",
    "GPTNeoForCausalLM",
    "GPTNeoXForCausalLM",
    "PhiForCausalLM",
)
"""Where centring was measured to take the mean out of the stream and do nothing else. It is not so
everywhere: BLOOM normalises its embeddings, so that the mean of their bias stays."""

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

_BLOCK: Final = re.compile(r"^blocks\.\d+\.")


def processing_of(cfg: SAEConfig, model: LanguageModel) -> list[str]:
    """TransformerLens' options that processed the weights of the model that an SAE was trained on.

    Args:
        cfg: of the SAE; its metadata say how its model was loaded.
        model: the model that stands in for it, whose weights are as they are.

    Raises:
        ProcessingError: it was loaded in a way that may change what it computes and that is not
            known here, or is another revision.
    """
    options = []
    for key, value in sorted(cfg.model_from_pretrained_kwargs.items()):
        if value is None or key in _WITHOUT_EFFECT:
            continue
        if key in CHANGED_BY and isinstance(value, bool):
            options += [key] if value else []
        elif not (key == "revision" and _is_revision(value, model)):
            raise ProcessingError(
                f"asks for {key}={value!r:.40}, and this is {model.name} at "
                f"{model.ref or model.revision}",
                field=key,
            )
    return options


def _is_revision(asked: object, model: LanguageModel) -> bool:
    """Whether `model` may be that revision; for a folder, its owner alone knows."""
    return model.ref is None or asked == model.ref or model.revision.startswith(str(asked))


def is_centred(options: Collection[str], hook: HookPoint, model: LanguageModel) -> bool:
    """Whether the activations at `hook` lose their mean over d_model when weights are processed.

    Args:
        options: the options of TransformerLens that are on, keys of `CHANGED_BY`.
        hook: a hook point of `model`, whose weights are as they are.

    Returns:
        True: processed weights show h - mean(h); False: they show h.

    Raises:
        ProcessingError: they show something else there, or nobody has measured what.
    """
    # TransformerLens leaves models alone whose RMS norms do not take the mean out again.
    active = [o for o in options if not (o == CENTRING and model.normalization == "RMS")]
    if not active:
        return False
    kind = _KIND_OF.get(_BLOCK.sub("", hook.canonical))
    if kind is None:
        raise ProcessingError(
            f"what {active[0]} makes of {hook.name} was not measured", field=active[0]
        )
    for option in active:
        if option != CENTRING and kind in CHANGED_BY[option]:
            raise ProcessingError(
                f"{option} gives other activations at {hook.name} than the raw weights",
                field=option,
            )
    if CENTRING not in active:
        return False
    if model.architecture not in CENTRED_ARCHITECTURES:
        raise ProcessingError(
            f"what {CENTRING} makes of a {model.architecture} was not measured",
            field=CENTRING,
        )
    return kind in CHANGED_BY[CENTRING]
