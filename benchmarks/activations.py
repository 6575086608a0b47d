"""Row 5: Encode of a client's activations, against the product and the compaction alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch

from benchmarks.callers import callers, tokens_of
from benchmarks.floor import compact
from benchmarks.harness import Bar, Options, Report, alternate, ratio
from benchmarks.serving import served
from benchmarks.setting import Setting, gpt2_shaped, texts
from saekit.codec import numpy_to_tensor
from saekit.v1 import input_pb2
from saekit.v1 import sae_service_pb2 as pb

ROWS: Final = 1024
CALLS: Final = 4


def measure(options: Options) -> Iterator[Report]:
    """1,024 rows, 768 wide, float32, to sparse features."""
    setting = gpt2_shaped()
    sae = setting.saes[0]
    x = _activations(setting)
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


def _activations(setting: Setting) -> torch.Tensor:
    """What the model has at the hook point, so that as many features fire as do in a text."""
    seen: list[torch.Tensor] = []
    rows = [row for row in setting.rows(texts()) if len(row) >= 128][: ROWS // 128]
    hook = setting.model.hook_point(str(setting.saes[0].cfg.hook_name))
    tokens = torch.from_numpy(np.stack([row[:128] for row in rows]))
    setting.model.forward(tokens, taps={hook: lambda h: seen.append(h.flatten(0, 1))})
    return seen[0].contiguous()
