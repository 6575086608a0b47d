"""Row 11: health under full load, goodput at five times the capacity, and how fast it says no."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.callers import encode_requests
from benchmarks.harness import Bar, Options, Outcome, Report, percentile
from benchmarks.latency import Seen, channel, closed_loop, open_loop
from benchmarks.serving import served
from benchmarks.setting import embedded, texts
from saekit.v1.sae_service_pb2_grpc import SAEServiceStub

CALLERS: Final = 16
PER_CALL: Final = 8
QUEUE: Final = 256
"""Inputs that may wait: as many as keep the device busy for about a second."""
SECONDS: Final = 5.0
RAMP: Final = 1.0
"""Seconds until the queue is as full as it gets; not counted."""
TIMES: Final = 5


def measure(options: Options) -> Iterator[Report]:
    """On the embedded model. Each turn: at capacity, then far beyond it."""
    setting = embedded()
    request = encode_requests(texts(PER_CALL, seed=3), setting.sae_ids[:1], per_call=PER_CALL)[0]
    flags = (*setting.flags, "--max-queued-requests", str(QUEUE))
    with served(*flags) as address:
        turns = [uvloop.run(_turn(address, request)) for _ in range(options.runs + 1)][1:]
    peak, goodput, health, reject, reject_p99, rejected = zip(*turns, strict=True)
    share = Outcome.of([good / best for good, best in zip(goodput, peak, strict=True)])
    yield Report(
        row="11",
        question=f"{CALLERS} callers at capacity, then {TIMES} × as many calls",
        unit="calls/s or ms",
        outcomes={
            "peak, calls/s": Outcome.of(peak),
            f"goodput at {TIMES} ×, calls/s": Outcome.of(goodput),
            "health under full load, p99 ms": Outcome.of(health),
            "time to reject, p50 ms": Outcome.of(reject),
            "time to reject, p99 ms": Outcome.of(reject_p99),
        },
        bars=(
            Bar("health p99, ms", Outcome.of(health).median, most=20),
            Bar("goodput ÷ peak", share.median, least=0.9),
            Bar("time to reject, p50 ms", Outcome.of(reject).median, most=10),
        ),
        notes=(f"{Outcome.of(rejected).median:.0%} of the calls were turned away",),
    )


async def _turn(address: str, request: Any) -> tuple[float, ...]:
    async with channel(address) as connection, channel(address) as other:
        stub, health_stub = SAEServiceStub(connection), health_pb2_grpc.HealthStub(other)

        async def call() -> None:
            await stub.Encode(request)

        async def check() -> None:
            await health_stub.Check(health_pb2.HealthCheckRequest())

        full, health = Seen(), Seen()
        began = time.perf_counter()
        await asyncio.gather(
            closed_loop(call, full, callers=CALLERS, seconds=SECONDS),
            open_loop(check, health, per_second=20, seconds=SECONDS),
        )
        peak = full.rate(began + RAMP, SECONDS - RAMP)
        seen = Seen()
        began = time.perf_counter()
        await open_loop(call, seen, per_second=TIMES * peak, seconds=SECONDS)
        goodput = seen.rate(began + RAMP, SECONDS - RAMP)
    total = len(seen.seconds) + len(seen.rejected)
    return (
        peak,
        goodput,
        percentile(health.seconds, 0.99) * 1e3,
        percentile(seen.rejected, 0.5) * 1e3,
        percentile(seen.rejected, 0.99) * 1e3,
        len(seen.rejected) / max(total, 1),
    )
