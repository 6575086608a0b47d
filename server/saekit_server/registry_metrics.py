"""The registry's figures, read when Prometheus asks."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from saekit_server.registry import Registry


class RegistryCollector(Collector):
    """Sizes and outcomes of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """The figures now."""
        stats = self._registry.stats()
        yield GaugeMetricFamily("saekit_registry_saes", "SAEs that are loaded.", value=stats.n_saes)
        yield GaugeMetricFamily(
            "saekit_registry_bytes", "Memory of loaded SAEs, bytes.", value=stats.resident_bytes
        )
        yield CounterMetricFamily(
            "saekit_sae_evictions", "SAEs moved off the device.", value=stats.evictions
        )
        loads = CounterMetricFamily("saekit_sae_loads", "Loads of SAEs.", labels=["outcome"])
        for outcome, count in stats.loads.items():
            loads.add_metric([outcome], count)
        yield loads
