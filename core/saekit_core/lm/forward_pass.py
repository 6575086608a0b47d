"""One pass through a Hugging Face model, that goes no further than it must."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .taps import StopForward, first_input


def run_pass(
    root: PreTrainedModel,
    tokens: Tensor,
    inputs: dict[str, Any],
    *,
    logits_at: Tensor | None,
    all_logits: bool = False,
) -> Tensor | None:
    """Run `root`, whose taps are attached.

    Args:
        root: the plain model, or the one inside a bridge.
        tokens: LongTensor [R, P], on its device.
        inputs: what else it is called with.
        logits_at: LongTensor [n] of flat indices row * P + position, on its device. None: no
            logits, and the pass ends before the output embedding, if no tap has ended it.
        all_logits: compute every logit and choose then, for a tap at the output embedding.

    Returns:
        float32 [n, d_vocab], or None without `logits_at`.
    """
    with _unembedding_only(root, logits_at, keep_all=all_logits):
        try:
            output = root(input_ids=tokens, **inputs)
        except StopForward:
            return None
    if logits_at is None:
        return None
    logits: Tensor = output.logits
    if all_logits:
        return logits.flatten(0, 1)[logits_at].float()
    return logits[0].float()


@contextmanager
def _unembedding_only(
    root: PreTrainedModel, wanted: Tensor | None, *, keep_all: bool
) -> Iterator[None]:
    """Let the output embedding see only the `wanted` flat positions; with None, end before it.

    What a model does to its logits afterwards (scaling, soft-capping) it still does.
    """
    if keep_all:
        yield
        return

    def gather(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if wanted is None:
            raise StopForward
        key, h = first_input(args, kwargs)
        rows = h.flatten(0, 1)[wanted][None]
        if isinstance(key, int):
            return (*args[:key], rows, *args[key + 1 :]), kwargs
        return args, {**kwargs, key: rows}

    unembed: nn.Module = root.get_output_embeddings()  # type: ignore[no-untyped-call]
    handle = unembed.register_forward_pre_hook(gather, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
