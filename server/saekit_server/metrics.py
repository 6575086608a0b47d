"""What Prometheus sees. No label takes a value that a client can choose freely."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192, 16384)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One server's metrics, in a registry of their own, so that two servers fit in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

        rpc = ("grpc_service", "grpc_method")
        self.handled = counter("grpc_server_handled_total", "Finished calls.", *rpc, "grpc_code")
        self.request_seconds = histogram(
            "saekit_request_duration_seconds", "Duration of calls.", _SECONDS, *rpc
        )
        self.queue_seconds = histogram(
            "saekit_queue_wait_seconds", "Wait from admission to the device.", _SECONDS, "kind"
        )
        self.batch_tokens = histogram(
            "saekit_batch_tokens", "Tokens of a batch, without padding.", _TOKENS, "kind"
        )
        self.padded_tokens = counter(
            "saekit_padded_tokens_total", "Positions run that held no token."
        )
        self.batch_rows = histogram("saekit_batch_rows", "Rows of a batch.", _ROWS, "kind")
        self.first_token_seconds = histogram(
            "saekit_time_to_first_token_seconds", "Steer: admission to first token.", _SECONDS
        )
        self.inter_token_seconds = histogram(
            "saekit_inter_token_seconds", "Steer: from one token to the next.", _SECONDS
        )
        self.tokens_in = counter("saekit_input_tokens_total", "Tokens of inputs.", "kind")
        self.tokens_out = counter("saekit_generated_tokens_total", "Tokens generated.")
        self.sae_tokens = counter(
            "saekit_sae_encoded_tokens_total", "Tokens encoded by an SAE.", "sae"
        )
        self.sae_l0 = gauge(
            "saekit_sae_l0", "Mean active features per token in the last batch.", "sae"
        )
        self.oom_retries = counter(
            "saekit_out_of_memory_retries_total", "Batches halved for want of device memory."
        )
        self.rejections = counter("saekit_rejections_total", "Requests not admitted.", "reason")
        self.feature_fires = counter(
            "saekit_feature_fires_total",
            "Tokens on which a feature named in the manifest was active.",
            "sae",
            "feature",
        )
        self.feature_activation = histogram(
            "saekit_feature_activation",
            "Activations of features named in the manifest.",
            (0.1, 0.3, 1, 3, 10, 30, 100, 300),
            "sae",
            "feature",
        )
        self.build = Info("saekit_build", "Versions, model and device.", registry=self.registry)
