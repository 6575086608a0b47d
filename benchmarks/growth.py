"""Row 14: tokens per second by callers, by d_sae and by length, with pictures.

On the GPT-2-shaped model. There is no peer here: what is looked for is a cliff.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from benchmarks.callers import callers, encode_requests
from benchmarks.harness import Bar, Options, Outcome, Report
from benchmarks.serving import served
from benchmarks.setting import gpt2_shaped, make_saes, texts

CALLERS: Final = (1, 2, 4, 8, 16, 32, 64)
WIDTHS: Final = tuple(2**n for n in range(12, 18))
LENGTHS: Final = (16, 64, 256, 1000)
DOCS: Final = Path(__file__).parents[1] / "docs" / "growth.png"

Series = dict[int, Outcome]


def measure(options: Options) -> Iterator[Report]:
    """Three series; a third of the turns of other questions, since each has many points."""
    runs = max(options.runs // 2, 1)
    setting = gpt2_shaped()
    sae = setting.sae_ids[0]
    some = [text for text in texts() if len(text.split()) < 200][:64]
    with served(*setting.flags) as address:
        by_callers: Series = {}
        for count in CALLERS:
            with callers(address, count) as clients:
                requests = encode_requests(some, [sae], per_call=1)
                by_callers[count] = _rate(lambda c=clients, r=requests: c.encode(r), runs)
        by_length: Series = {}
        with callers(address, 4) as clients:
            for length in LENGTHS:
                same = _of_length(length, max(4096 // length, 4))
                requests = encode_requests(same, [sae], per_call=max(len(same) // 8, 1))
                by_length[length] = _rate(lambda r=requests: clients.encode(r), runs)
    by_width: Series = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {Path(scratch) / f"{width}": width for width in WIDTHS}
        make_saes(setting.model_dir, folders)
        with (
            served("--model", str(setting.model_dir), "--sae-dir", scratch) as address,
            callers(address, 4) as clients,
        ):
            for width in WIDTHS:
                requests = encode_requests(some, [str(width)], per_call=8)
                by_width[width] = _rate(lambda r=requests: clients.encode(r), runs)
    _draw({"callers": by_callers, "features": by_width, "tokens in a text": by_length})
    for row, what, series, bar in (
        ("14a", "callers", by_callers, _least_step(by_callers, 0.8)),
        ("14b", "features", by_width, _most_growth(by_width, 2.2)),
        ("14c", "tokens in a text", by_length, _most_growth(by_length, 1.6)),
    ):
        yield Report(
            row=row,
            question=f"served Encode by {what}",
            unit="tokens/s",
            outcomes={f"{x:,}": outcome for x, outcome in series.items()},
            bars=(bar,),
        )


def _rate(work: Callable[[], float], runs: int) -> Outcome:
    rates = []
    for turn in range(runs + 1):
        began = time.perf_counter()
        units = work()
        if turn:
            rates.append(units / (time.perf_counter() - began))
    return Outcome.of(rates)


def _of_length(tokens: int, count: int) -> list[str]:
    """Texts of one length, the BOS included."""
    long = [text.split() for text in texts(4 * count, seed=1, mean=4000, p99=9000)]
    return [" ".join(words[: tokens - 1]) for words in long if len(words) >= tokens - 1][:count]


def _least_step(series: Series, least: float) -> Bar:
    """More callers may not make it slower."""
    rates = [outcome.median for outcome in series.values()]
    worst = min(b / a for a, b in pairwise(rates))
    return Bar("worst step from one count to the next", worst, least=least)


def _most_growth(series: Series, most: float) -> Bar:
    """The time of a token grows at most so much from one point to the next."""
    rates = [outcome.median for outcome in series.values()]
    worst = max(a / b for a, b in pairwise(rates))
    return Bar("largest growth of a token's time in a step", worst, most=most)


def _draw(series: dict[str, Series]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(series), figsize=(11, 3.2), layout="constrained")
    for axis, (name, points) in zip(axes, series.items(), strict=True):
        _line(axis, name, list(points), [outcome.median for outcome in points.values()])
    axes[0].set_ylabel("tokens/s")
    figure.suptitle("Served Encode, GPT-2-small shape, 24,576 features unless the axis says so")
    figure.savefig(DOCS, dpi=120)
    plt.close(figure)


def _line(axis: object, name: str, x: Sequence[int], y: Sequence[float]) -> None:
    axis.plot(x, y, marker="o")  # type: ignore[attr-defined]
    axis.set(xscale="log", xlabel=name, ylim=(0, 1.1 * max(y)))  # type: ignore[attr-defined]
    axis.set_xticks(x, [f"{value // 1024}k" if value >= 4096 else str(value) for value in x])  # type: ignore[attr-defined]
    axis.minorticks_off()  # type: ignore[attr-defined]
    axis.grid(alpha=0.3)  # type: ignore[attr-defined]
