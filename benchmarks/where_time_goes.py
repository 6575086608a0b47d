"""Where the time of an Encode goes, with a picture: 32 texts of the GPT-2-shaped model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Options, Outcome, Report
from benchmarks.setting import Setting, gpt2_shaped, texts
from saekit.codec import CSR, sparse_rows
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.sae import encode_sparse

DOCS: Final = Path(__file__).parents[1] / "docs" / "profile.png"
T = TypeVar("T")
KINDS: Final = {
    "aten::addmm": "matrix products of the model",
    "aten::mm": "matrix products of the model",
    "aten::gelu": "GELU",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
}


def measure(options: Options) -> Iterator[Report]:
    """Seconds of each part, taken one after the other in one process."""
    setting = gpt2_shaped()
    some = sorted(texts(), key=len)[112:144]
    turns = [_parts(setting, some) for _ in range(options.runs + 1)][1:]
    outcomes = {name: Outcome.of([turn[name] for turn in turns]) for name in turns[0]}
    _draw(outcomes)
    yield Report(
        row="profile",
        question=f"where the time of {len(some)} texts goes",
        unit="s",
        outcomes=outcomes,
        bars=(),
    )


def _parts(setting: Setting, some: list[str]) -> dict[str, float]:
    """Seconds of each part."""
    model, sae = setting.model, setting.saes[0]
    parts: dict[str, float] = {}
    rows, parts["tokenising"] = _timed(lambda: setting.rows(some))
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, new in zip(tokens, rows, strict=True):
        row[: len(new)] = new
    seen: list[torch.Tensor] = []
    taps = {model.hook_point(str(sae.cfg.hook_name)): lambda h: seen.append(h.flatten(0, 1))}
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        model.forward(torch.from_numpy(tokens), taps=taps)
    for event in profiler.key_averages():
        kind = KINDS.get(event.key, "other operations of the model")
        parts[kind] = parts.get(kind, 0.0) + event.self_cpu_time_total / 1e6
    x = seen[0][: sum(map(len, rows))].contiguous()
    # Its product and its compaction go tile by tile, and cannot be timed apart.
    (acts, _), parts["the SAE: product and compaction"] = _timed(lambda: encode_sparse(sae, x))
    csr = CSR(acts.indptr, acts.indices, acts.values.numpy(), (len(x), sae.cfg.d_sae))
    data, parts["making the message"] = _timed(
        lambda: pb.SAEEncoding(sparse=sparse_rows(csr)).SerializeToString()
    )
    _, parts["reading the message"] = _timed(lambda: pb.SAEEncoding.FromString(data))
    return parts


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def _draw(outcomes: dict[str, Outcome]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    total = sum(outcome.median for outcome in outcomes.values())
    figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    names = list(outcomes)[::-1]
    shares = [outcomes[name].median / total for name in names]
    bars = axis.barh(names, shares)
    axis.bar_label(bars, [f" {share:.1%}" for share in shares])
    axis.set(xlim=(0, max(shares) * 1.15), xticks=[], title="Where the time of an Encode goes")
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(DOCS, dpi=120)
    plt.close(figure)
