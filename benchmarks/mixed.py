"""Row 10: eight Steers and thirty Encodes a second at once, on the embedded model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

import uvloop

from benchmarks.callers import encode_requests
from benchmarks.harness import Bar, Options, Outcome, Report, percentile
from benchmarks.latency import Seen, channel, closed_loop, open_loop
from benchmarks.serving import served
from benchmarks.setting import embedded, texts
from benchmarks.steering import steer_request
from saekit.v1.sae_service_pb2_grpc import SAEServiceStub

STREAMS: Final = 8
PER_SECOND: Final = 30
SECONDS: Final = 6.0


def measure(options: Options) -> Iterator[Report]:
    """Each turn: streams alone, Encode alone, both."""
    setting = embedded()
    text = next(text for text in texts() if 90 < len(text.split()) < 110)
    encode = encode_requests([text], setting.sae_ids[:1], per_call=1)[0]
    steers = [steer_request(stream, tokens=256) for stream in range(STREAMS)]
    with served(*setting.flags) as address:
        turns = [uvloop.run(_turn(address, encode, steers)) for _ in range(options.runs + 1)][1:]
    gaps_alone, encode_alone, gaps, encodes = zip(*turns, strict=True)
    step = Outcome.of([percentile(g, 0.5) * 1e3 for g in gaps_alone])
    compute = Outcome.of([percentile(e, 0.5) * 1e3 for e in encode_alone])
    p99_alone = Outcome.of([percentile(g, 0.99) * 1e3 for g in gaps_alone])
    p99 = Outcome.of([percentile(g, 0.99) * 1e3 for g in gaps])
    encode_p99 = Outcome.of([percentile(e, 0.99) * 1e3 for e in encodes])
    yield Report(
        row="10",
        question=f"{STREAMS} Steers and {PER_SECOND} Encode/s at once",
        unit="ms",
        outcomes={
            "decode step, streams alone (p50)": step,
            "between tokens, streams alone (p99)": p99_alone,
            "between tokens, mixed (p99)": p99,
            "Encode alone (p50)": compute,
            "Encode, mixed (p99)": encode_p99,
        },
        bars=(
            Bar(
                "Encode p99 ÷ (3 decode steps + its own time alone)",
                encode_p99.median / (3 * step.median + compute.median),
                most=1.0,
            ),
            Bar("between tokens p99 ÷ alone", p99.median / p99_alone.median, most=3.0),
        ),
        notes=(f"an Encode is of one text of {len(text.split())} words",),
    )


async def _turn(
    address: str, encode: Any, steers: list[Any]
) -> tuple[list[float], list[float], list[float], list[float]]:
    async with channel(address) as connection:
        stub = SAEServiceStub(connection)

        async def stream(request: Any, until: float, gaps: list[float]) -> None:
            while time.perf_counter() < until:
                last: float | None = None
                async for event in stub.Steer(request):
                    now = time.perf_counter()
                    if event.WhichOneof("event") == "token":
                        if last is not None and now < until:
                            gaps.append(now - last)
                        last = now

        async def streams(gaps: list[float]) -> None:
            until = time.perf_counter() + SECONDS
            await asyncio.gather(*(stream(request, until, gaps) for request in steers))

        async def call() -> None:
            await stub.Encode(encode)

        gaps_alone: list[float] = []
        await streams(gaps_alone)
        alone, mixed = Seen(), Seen()
        await closed_loop(call, alone, callers=1, seconds=1.0)
        gaps: list[float] = []
        await asyncio.gather(
            streams(gaps), open_loop(call, mixed, per_second=PER_SECOND, seconds=SECONDS)
        )
    return gaps_alone, alone.seconds, gaps, mixed.seconds
