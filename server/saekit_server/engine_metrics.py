"""The engine's figures, read when Prometheus asks."""

from collections.abc import Iterable

import torch
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from saekit_server.engine.engine import Engine
from saekit_server.memory_plan import used_bytes


class EngineCollector(Collector):
    """What waits and what runs."""

    def __init__(self, engine: Engine, device: torch.device) -> None:
        self._engine = engine
        self._device = device

    def collect(self) -> Iterable[Metric]:
        """The figures now."""
        figures = self._engine.figures()
        requests = GaugeMetricFamily(
            "saekit_queued_requests", "Requests that wait.", labels=["kind"]
        )
        tokens = GaugeMetricFamily("saekit_queued_tokens", "Tokens that wait.", labels=["kind"])
        for kind, depth in figures.queued.items():
            requests.add_metric([kind.value], depth.jobs)
            tokens.add_metric([kind.value], depth.tokens)
        yield requests
        yield tokens
        yield GaugeMetricFamily(
            "saekit_steer_rows", "Steer rows that hold a slot.", value=figures.slots_used
        )
        yield GaugeMetricFamily(
            "saekit_device_memory_bytes",
            "Memory in use of the device; of the process on a CPU.",
            value=used_bytes(self._device),
        )
