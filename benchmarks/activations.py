"""Row 5: Encode of a client's activations, against the product and the compaction alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from benchmarks.callers import callers, tokens_of
from benchmarks.floor import compact
from benchmarks.harness import Bar, Options, Report, alternate, ratio
from benchmarks.serving import served
from benchmarks.setting import gpt2_shaped
from saekit.codec import numpy_to_tensor
from saekit.v1 import input_pb2
from saekit.v1 import sae_service_pb2 as pb

ROWS: Final = 1024
CALLS: Final = 4


def measure(options: Options) -> Iterator[Report]:
    """1,024 rows, 768 wide, float32, to sparse features."""
    setting = gpt2_shaped()
    sae = setting.saes[0]
    generator = torch.Generator().manual_seed(0)
    # Of a scale at which about 64 features are above their thresholds.
    x = torch.randn(ROWS, sae.cfg.d_in, generator=generator)
    x *= sae.threshold.median() / 2.8
    request = pb.EncodeRequest(
        options=pb.EncodeOptions(saes=[pb.SAEQuery(sae=setting.sae_ids[0])]),
        inputs=[input_pb2.Input(activations=numpy_to_tensor(x.numpy()))],
    )
    with served(*setting.flags) as address, callers(address, 1) as client:

        def serve() -> float:
            return sum(tokens_of(client.stubs[0].Encode(request)) for _ in range(CALLS))

        def bare() -> float:
            for _ in range(CALLS):
                compact(sae, x)
            return float(CALLS * ROWS)

        outcomes = alternate({"product and compaction": bare, "served": serve}, runs=options.runs)
    found = sum(len(values) for _, values in compact(sae, x))
    yield Report(
        row="05",
        question=f"Encode of {ROWS:,} × {sae.cfg.d_in} activations",
        unit="rows/s",
        outcomes=outcomes,
        bars=(
            Bar("time ÷ bare", 1 / ratio(outcomes, "served", "product and compaction"), most=1.2),
        ),
        notes=(f"{found / ROWS:.0f} active features a row",),
    )
