"""Row 12: EncodeStream of 5,000 texts, against unary calls of eight; and memory on both sides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.callers import callers, encode_requests
from benchmarks.harness import Bar, Options, Report, alternate, ratio
from benchmarks.serving import served_process
from benchmarks.setting import embedded, texts
from saekit_client import Client

TEXTS: Final = 5000
PER_CALL: Final = 8


def measure(options: Options) -> Iterator[Report]:
    """On the embedded model; one caller each way. Memory is that of the last turn."""
    setting = embedded()
    # Short, as the records of a corpus are.
    many = texts(TEXTS, mean=40, p99=200)
    sae = setting.sae_ids[0]
    requests = encode_requests(many, [sae], per_call=PER_CALL)
    grown: dict[str, float] = {}
    with (
        served_process(*setting.flags) as (address, process),
        Client(address) as client,
        callers(address, 1) as unary,
    ):

        def stream() -> float:
            done, before = 0, (0, 0)
            for item in client.encode_stream(many, sae):
                _ = item.result
                done += 1
                if done == TEXTS // 5:
                    before = _resident(os.getpid()), _resident(process.pid)
            after = _resident(os.getpid()), _resident(process.pid)
            grown["client"], grown["server"] = (
                now / then for now, then in zip(after, before, strict=True)
            )
            return float(done)

        def one_by_one() -> float:
            unary.encode(requests)
            return float(TEXTS)

        outcomes = alternate({"EncodeStream": stream, "unary calls": one_by_one}, runs=options.runs)
    yield Report(
        row="12",
        question=f"EncodeStream of {TEXTS:,} texts and unary calls of {PER_CALL}",
        unit="texts/s",
        outcomes=outcomes,
        bars=(
            Bar("stream ÷ unary", ratio(outcomes, "EncodeStream", "unary calls"), least=1.1),
            Bar("client's memory, end ÷ first fifth", grown["client"], most=1.05),
            Bar("server's memory, end ÷ first fifth", grown["server"], most=1.05),
        ),
    )


def _resident(pid: int) -> int:
    """Resident memory of a process, in pages."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
