"""Which models can run on key-value slots, and the masks that they need for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.cache_utils import get_layer_types_and_kwargs as layer_types_of

from .errors import UnsupportedModelError
from .kv_slots import KVSlots, LayerShape

if TYPE_CHECKING:
    from .model import LanguageModel

_CHECK_LENGTH = 9
_SMALL_WINDOW = 64
"""Windows up to this are tried out beyond their length; wider ones within it only."""


def find_slot_layers(hf: PreTrainedModel) -> tuple[LayerShape, ...]:
    """What each layer caches, from the cache that the model itself makes.

    Raises:
        UnsupportedModelError: for anything but keys and values per position in every layer.
    """
    tokens = torch.zeros(1, 2, dtype=torch.long, device=hf.device)
    with torch.no_grad():
        cache = hf(input_ids=tokens, use_cache=True).past_key_values
    if not isinstance(cache, DynamicCache):
        raise UnsupportedModelError(
            f"{type(hf).__name__} keeps its past in a {type(cache).__name__}; "
            "generation needs keys and values per position"
        )
    types, options = layer_types_of(hf.config.get_text_config(decoder=True))
    layers = []
    for i, layer in enumerate(cache.layers):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise UnsupportedModelError(
                f"layer {i} of {type(hf).__name__} caches a {type(layer).__name__}; generation "
                "needs keys and values per position in every layer (no recurrent state)"
            )
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        layers.append(
            LayerShape(
                key_heads=layer.keys.shape[1],
                d_key=layer.keys.shape[3],
                value_heads=layer.values.shape[1],
                d_value=layer.values.shape[3],
                layer_type=types[i],
                window=options[i].get("sliding_window"),
            )
        )
    return tuple(layers)


def refuse_unknown_windows(layers: tuple[LayerShape, ...], max_length: int) -> None:
    """Slots longer than a window need our own mask, which knows sliding windows only.

    Raises:
        UnsupportedModelError: naming the longest slot that works.
    """
    for layer in layers:
        known = layer.layer_type in ("full_attention", "sliding_attention")
        if not known and layer.window is not None and max_length > layer.window:
            raise UnsupportedModelError(
                f"slots of {max_length} positions are longer than the window of a "
                f"{layer.layer_type} layer; use at most {layer.window}",
                field="max_length",
            )


def slot_masks(slots: KVSlots, model: PreTrainedModel) -> Tensor | dict[str, Tensor] | None:
    """The attention mask for the running plan of `slots`, in the form that `model` reads.

    None where transformers' own mask fits; else [R, 1, P, K], one per type of layer where there
    are several.
    """
    plan = slots.current
    assert plan is not None
    if plan.aligned:
        return None
    masks = {}
    for layer_type, window in {(s.layer_type, s.window) for s in slots.shapes}:
        mask = slots.mask(plan, window)
        if model.config.get_text_config(decoder=True)._attn_implementation != "sdpa":
            lowest = torch.finfo(model.dtype).min
            mask = torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, lowest)
        masks[layer_type] = mask
    return masks if len(masks) > 1 else next(iter(masks.values()))


def check_slots(model: LanguageModel, layers: tuple[LayerShape, ...]) -> None:
    """Run two short rows through slots, in chunks and out of order, and compare the logits.

    A cache is where architectures differ most; rather refuse than write wrong text.

    Raises:
        UnsupportedModelError: if the logits differ from those of a plain forward pass.
    """
    small = [s.window for s in layers if s.window is not None and s.window <= _SMALL_WINDOW]
    length = min(max([0, *small]) + _CHECK_LENGTH, model.max_context)
    tokens = (torch.arange(2 * length) * 31 + 7).view(2, length) % model.d_vocab
    last = torch.tensor([length - 1, 2 * length - 2])
    expected = model.forward(tokens, taps={}, logits_at=last)
    try:
        actual = _run_in_chunks(model, layers, tokens)
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise UnsupportedModelError(
            f"{type(model.hf).__name__} does not run on key-value slots: {error}"
        ) from error
    assert expected is not None
    tolerance = 1e-3 if model.dtype is torch.float32 else 0.1
    error_norm = float((actual - expected).norm() / expected.norm())
    if not error_norm <= tolerance:
        raise UnsupportedModelError(
            f"{type(model.hf).__name__} gives other logits on key-value slots than without "
            f"(relative difference {error_norm:.1e}); generation would write wrong text"
        )


def _run_in_chunks(model: LanguageModel, layers: tuple[LayerShape, ...], tokens: Tensor) -> Tensor:
    """Logits [2, d_vocab] at the last token of row 0 and the last but one of row 1."""
    length = tokens.shape[1]
    slots = KVSlots(layers, 2, length, model.dtype, model.device)

    def step(rows: list[int], start: list[int], n_new: list[int]) -> Tensor:
        batch = torch.zeros(len(rows), max(n_new), dtype=torch.long)
        for i, row in enumerate(rows):
            batch[i, : n_new[i]] = tokens[row, start[i] : start[i] + n_new[i]]
        logits = model.forward_slots(
            slots,
            batch,
            slot_ids=torch.tensor(rows),
            start=torch.tensor(start),
            n_new=torch.tensor(n_new),
            taps={},
            logits_at=torch.tensor([i * max(n_new) + n - 1 for i, n in enumerate(n_new)]),
        )
        assert logits is not None
        return logits

    middle = length // 2
    step([0, 1], [0, 0], [middle, 1])
    # A row far on with one token beside a row far behind with many: an architecture that takes
    # all rows to end at the same position fails here.
    step([0, 1], [middle, 1], [1, length - 3])
    return step([1, 0], [length - 2, middle + 1], [1, length - 1 - middle]).flip(0)
