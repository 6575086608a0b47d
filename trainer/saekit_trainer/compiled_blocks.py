"""The blocks of a model that a training run goes through, compiled for its duration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.model import LanguageModel
from saekit_trainer.errors import ConfigError

_BLOCK: Final = re.compile(r"blocks\.(\d+)\.(.*)")


@contextmanager
def compiled_blocks(
    model: LanguageModel, hooks: Sequence[HookPoint], mode: str | None
) -> Iterator[None]:
    """Compile the blocks before the deepest of `hooks` with torch.compile, and undo it afterwards.

    A block that has a hook point inside is left as it is: compiled code does not call module hooks
    that come later. Those at a block's beginning and end lie outside of it.

    Args:
        mode: of torch.compile; None: nothing is compiled.

    Raises:
        ConfigError: the model's blocks cannot be found.
    """
    if mode is None:
        yield
        return
    blocks = _blocks_before(model, hooks)
    # Assigned to the instance, so that deleting it brings the class's method back.
    for block in blocks:
        compiled: Any = torch.compile(block.forward, mode=mode)
        block.forward = compiled
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _blocks_before(model: LanguageModel, hooks: Sequence[HookPoint]) -> list[nn.Module]:
    lists = [m for m in model.hf.modules() if isinstance(m, nn.ModuleList)]
    found = next((m for m in lists if len(m) == model.n_layers), None)
    if found is None:
        raise ConfigError(
            f"compile_llm: cannot find the blocks of {model.name}", field="compile_llm"
        )
    first = model.hook_point("blocks.0.hook_resid_pre").depth
    deepest, tapped = 0, set()
    for hook in hooks:
        place = _BLOCK.match(hook.canonical)
        if place is None:
            deepest = max(deepest, 0 if hook.depth <= first else model.n_layers)
            continue
        index = int(place.group(1))
        deepest = max(deepest, index + (place.group(2) != "hook_in"))
        if place.group(2) not in ("hook_in", "hook_out"):
            tapped.add(index)
    return [block for i, block in enumerate(found) if i < deepest and i not in tapped]
