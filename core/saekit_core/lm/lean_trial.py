"""Whether a model's steps can be run lean: found out by running some both ways."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .hook_points import HookPoint, ModuleSite, Tap
from .kv_slots import KVSlots, LayerShape
from .lean_gpt2 import GPT2_LIKE, LeanGPT2
from .lean_llama import LLAMA_LIKE, LeanLlama
from .lean_step import LeanFamily, LeanStep, within_windows

if TYPE_CHECKING:
    from .model import LanguageModel

_log = logging.getLogger(__name__)
_LENGTHS = (5, 1, 3)
"""Positions that the rows of the trial hold before their step."""
_TOLERANCE = 1e-4
"""Of float32, times 1 + |value|."""
_TOLERANCE_HALF = 0.1
"""Relative Frobenius distance of half precision, as where slots are tried out."""


def find_lean_step(
    model: LanguageModel, layers: tuple[LayerShape, ...], sites: Mapping[str, ModuleSite]
) -> LeanStep | None:
    """The lean step of `model`; None where there is none that does what its modules do."""
    family = _family_of(model)
    devices = {p.device for p in model.hf.parameters()}
    length = min(max(_LENGTHS) + 1, model.max_context)
    if family is None or len(devices) > 1 or not all(within_windows(layers, length)):
        return None
    try:
        lean = LeanStep(model.hf, family(model.hf), sites)
        agrees = _agrees(model, layers, lean)
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        _log.info("steps of %s go through its modules: %s", model.name, error)
        return None
    if not agrees:
        _log.warning("steps of %s go through its modules: others differ", model.name)
    return lean if agrees else None


def _family_of(model: LanguageModel) -> Callable[[PreTrainedModel], LeanFamily] | None:
    if model.architecture in LLAMA_LIKE:
        return LeanLlama
    return LeanGPT2 if model.architecture in GPT2_LIKE else None


def _agrees(model: LanguageModel, layers: tuple[LayerShape, ...], lean: LeanStep) -> bool:
    """Compare logits and activations of a step of ragged rows, run both ways."""
    n_rows, width = len(_LENGTHS), max(_LENGTHS)
    tokens = ((torch.arange(n_rows * (width + 1)) * 31 + 7) % model.d_vocab).view(n_rows, -1)
    points = [model.hook_point(name) for name in lean.places]
    rows = torch.arange(n_rows)
    counts = torch.tensor(_LENGTHS)
    seen: list[dict[HookPoint, Tensor]] = []
    slots = KVSlots(layers, n_rows, width + 1, model.dtype, model.device)
    prompt = {"slot_ids": rows, "start": torch.zeros_like(rows), "n_new": counts}
    model.forward_slots(slots, tokens[:, :width], **prompt, taps={})
    new = tokens[:, width:]
    taps, shown = _recorders(points)
    seen.append(shown)
    expected = model.forward_slots(
        slots,
        new,
        slot_ids=rows,
        start=counts,
        n_new=torch.ones_like(rows),
        taps=taps,
        logits_at=rows,
    )
    taps, shown = _recorders(points)
    slots.begin(slots.plan(rows.tolist(), counts.tolist(), [1] * n_rows, 1))
    try:
        with torch.no_grad():
            actual = lean.run(slots, new[:, 0].to(model.device), taps, rows.to(model.device))
    finally:
        slots.end()
    assert expected is not None
    assert actual is not None
    pairs = [(actual, expected)] + [(shown[point], seen[0][point]) for point in points]
    return all(_same(a, b, model.dtype) for a, b in pairs)


def _recorders(points: list[HookPoint]) -> tuple[dict[HookPoint, Tap], dict[HookPoint, Tensor]]:
    shown: dict[HookPoint, Tensor] = {}

    def recorder(point: HookPoint) -> Callable[[Tensor], None]:
        def record(h: Tensor) -> None:
            shown[point] = h.clone()

        return record

    return {point: recorder(point) for point in points}, shown


def _same(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    a, b = a.float(), b.float()
    if dtype is torch.float32:
        return bool(((a - b).abs() <= _TOLERANCE * (1 + b.abs())).all())
    return bool((a - b).norm() <= _TOLERANCE_HALF * b.norm())
