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
_STEPS = ((5, 1, 3), (1, 1, 1), (2, 1, 3))
"""New tokens of each row in the steps of the trial: prompts, one token each, and the middle of
prompts."""
_LONGEST = max(map(sum, zip(*_STEPS, strict=True)))
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
    length = min(_LONGEST, model.max_context)
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
    """Compare logits and activations of steps of ragged rows, run both ways."""
    n_rows = len(_STEPS[0])
    slots = KVSlots(layers, n_rows, _LONGEST, model.dtype, model.device)
    starts = torch.zeros(n_rows, dtype=torch.long)
    for lengths in _STEPS:
        counts = torch.tensor(lengths)
        if not _agrees_on(model, lean, slots, starts, counts):
            return False
        starts += counts
    return True


def _agrees_on(
    model: LanguageModel, lean: LeanStep, slots: KVSlots, starts: Tensor, counts: Tensor
) -> bool:
    n_rows, width = len(counts), int(counts.max())
    tokens = ((torch.arange(n_rows * width) * 31 + 7) % model.d_vocab).view(n_rows, width)
    real = torch.arange(width) < counts[:, None]
    last = torch.arange(n_rows) * width + counts - 1
    points = [model.hook_point(name) for name in lean.places]
    taps, seen = _recorders(points)
    # The model has no lean step yet: this goes through its modules.
    expected = model.forward_slots(
        slots,
        tokens,
        slot_ids=torch.arange(n_rows),
        start=starts,
        n_new=counts,
        taps=taps,
        logits_at=last,
    )
    taps, shown = _recorders(points)
    plan = slots.plan(list(range(n_rows)), starts.tolist(), counts.tolist(), width)
    slots.begin(plan)
    try:
        with torch.no_grad():
            actual = lean.run(slots, tokens.to(model.device), taps, last.to(model.device))
    finally:
        slots.end()
    assert expected is not None
    assert actual is not None
    # Positions past a row's end hold junk.
    kept = [(shown[point].cpu()[real], seen[point].cpu()[real]) for point in points]
    return all(_same(a, b, model.dtype) for a, b in [(actual, expected), *kept])


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
