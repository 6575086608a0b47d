"""Row 6: three SAEs on three layers for the same texts, in one call and from three callers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from benchmarks.callers import callers, encode_requests
from benchmarks.floor import compact, input_of
from benchmarks.harness import Bar, Options, Report, alternate, ratio
from benchmarks.serving import served
from benchmarks.setting import LAYERS, Ids, Setting, gpt2_shaped, texts

COUNT: Final = 32


def measure(options: Options) -> Iterator[Report]:
    """On 32 texts of the GPT-2-shaped model."""
    setting = gpt2_shaped()
    some = [text for text in texts() if len(text.split()) < 200][:COUNT]
    rows = setting.rows(some)
    with served(*setting.flags) as address, callers(address, len(LAYERS)) as clients:
        together = encode_requests(some, setting.sae_ids, per_call=COUNT)
        apart = [encode_requests(some, [sae], per_call=COUNT)[0] for sae in setting.sae_ids]

        def one_call() -> float:
            # `tokens_of` counts a text once.
            return float(clients.encode(together))

        def at_once() -> float:
            return float(clients.encode(apart))

        def one_after_the_other() -> float:
            return float(sum(clients.encode([request]) for request in apart))

        outcomes = alternate(
            {
                "one forward, three encodes, in process": partial(_floor, setting, rows),
                "one call": one_call,
                "three callers at once": at_once,
                "three callers one after the other": one_after_the_other,
            },
            runs=options.runs,
        )
    yield Report(
        row="06",
        question="three SAEs on three layers for the same texts",
        unit="tokens/s",
        outcomes=outcomes,
        bars=(
            Bar(
                "one call ÷ in process",
                ratio(outcomes, "one call", "one forward, three encodes, in process"),
                least=0.9,
            ),
            Bar(
                "at once ÷ one after the other",
                ratio(outcomes, "three callers at once", "three callers one after the other"),
                least=1.0,
            ),
        ),
    )


def _floor(setting: Setting, rows: list[Ids]) -> float:
    ordered = sorted(rows, key=len)
    ids = np.zeros((len(ordered), len(ordered[-1])), np.int64)
    for row, new in zip(ids, ordered, strict=True):
        row[: len(new)] = new
    real = torch.from_numpy(np.arange(ids.shape[1]) < np.array([[len(r)] for r in ordered]))
    hf: Any = setting.model.hf
    by_layer = dict(zip(LAYERS, setting.saes, strict=True))

    def encode(layer: int, h: torch.Tensor) -> None:
        compact(by_layer[layer], h[real])

    handles = [
        hf.transformer.h[layer].register_forward_pre_hook(
            lambda _, args, layer=layer: encode(layer, args[0])
        )
        for layer in LAYERS
        if layer != max(LAYERS)
    ]
    try:
        run = partial(hf, input_ids=torch.from_numpy(ids), use_cache=False)
        encode(max(LAYERS), input_of(hf.transformer.h[max(LAYERS)], run))
    finally:
        for handle in handles:
            handle.remove()
    return float(sum(map(len, rows)))
