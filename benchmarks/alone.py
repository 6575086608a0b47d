"""Row 4: what the wire adds to one short text alone, on the embedded model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import torch

from benchmarks.callers import callers, encode_requests, tokens_of
from benchmarks.harness import Bar, Options, Outcome, Report
from benchmarks.serving import served
from benchmarks.setting import embedded
from saekit_core.sae import encode_sparse

TEXT: Final = "The little dog ran to the park and saw a red ball."
CALLS: Final = 200


def measure(options: Options) -> Iterator[Report]:
    """Medians of `CALLS` calls each way, in turn."""
    setting = embedded()
    model, sae = setting.model, setting.saes[0]
    hook = model.hook_point(str(sae.cfg.hook_name))
    request = encode_requests([TEXT], setting.sae_ids[:1], per_call=1)[0]

    def in_process() -> None:
        ids = model.tokenizer.encode_text(TEXT, sae.cfg.prepend_bos).ids
        model.forward(
            torch.from_numpy(ids)[None],
            taps={hook: lambda h: encode_sparse(sae, h[0]) and None},
        )

    with served(*setting.flags) as address, callers(address, 1) as client:
        stub = client.stubs[0]

        def over_the_wire() -> None:
            tokens_of(stub.Encode(request))

        for work in (in_process, over_the_wire):
            _median_ms(work)
        turns = [(_median_ms(in_process), _median_ms(over_the_wire)) for _ in range(options.runs)]
    added = Outcome.of([wire - direct for direct, wire in turns])
    yield Report(
        row="04",
        question="one short text alone: p50 over the wire and in process",
        unit="ms",
        outcomes={
            "in process": Outcome.of([direct for direct, _ in turns]),
            "over the wire": Outcome.of([wire for _, wire in turns]),
        },
        bars=(Bar("added by the wire, ms", added.median, most=1.5),),
    )


def _median_ms(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(CALLS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return Outcome.of(seconds).median * 1e3
