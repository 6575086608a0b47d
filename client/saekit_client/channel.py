"""How a client reaches its server: channel options, credentials, deadlines, retries."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

DEFAULT_ADDRESS = "localhost:50051"
MAX_MESSAGE_BYTES = 32 << 20

# Calls that change nothing on the server. The two bidirectional streams are not here: the client
# resumes them itself, item by item.
_REPEATABLE = {
    "saekit.v1.SAEService": ("Encode", "Decode", "RunWithSAEs", "RunWithSAEsStream", "Steer"),
    "saekit.v1.RegistryService": (
        "ListSAEs",
        "GetSAE",
        "WatchSAEs",
        "GetModel",
        "Tokenize",
        "GetFeatures",
    ),
}


@dataclass(frozen=True)
class TLS:
    """An encrypted channel."""

    root_certificates: Path | str | None = None
    """PEM file of the authorities that are trusted. Default: those of gRPC."""


@dataclass(frozen=True)
class Timeouts:
    """Deadlines in seconds; None waits for ever. Every method's `timeout` goes before these."""

    connect: float | None = 10.0
    """For the server to answer at all; None does not wait for it when the client is made."""
    unary: float | None = 60.0
    """One call with one answer."""
    load: float | None = 600.0
    """LoadSAE, which may download."""
    stream: float | None = 3600.0
    """A whole stream, from its first input to its last result."""


@dataclass(frozen=True)
class RetryPolicy:
    """Repeats of calls that change nothing, on UNAVAILABLE only; a server's pushback goes first."""

    attempts: int = 5
    """Tries in all, 1 to 5 (the most that gRPC allows). 1: no repeats."""
    initial_s: float = 0.2
    """Longest wait before the second try; it doubles with every further one."""
    max_s: float = 5.0
    """Longest wait between two tries."""

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 5:
            raise ValueError(f"attempts: expected 1 to 5, got {self.attempts}")

    def backoff(self, tries: int) -> float:
        """Seconds to wait after `tries` failures, tries >= 1."""
        return min(self.max_s, self.initial_s * 2.0 ** (tries - 1))


@dataclass(frozen=True)
class Connection:
    """Everything about the way to a server."""

    address: str = DEFAULT_ADDRESS
    """`host:port`; a name with several addresses (a headless Kubernetes service) is used
    round-robin. Any gRPC target: `ipv4:10.0.0.1:50051,10.0.0.2:50051`, `unix:/run/saekit.sock`."""
    tls: TLS | None = None
    """None: plain text."""
    token: str | None = field(default=None, repr=False)
    """Bearer token of every call. Without TLS it travels readable."""
    model: str | None = None
    """Refuse to be served by any other model than this."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    """Deadlines."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """Repeats."""

    def options(self) -> list[tuple[str, Any]]:
        """gRPC channel arguments."""
        return [
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # A dead peer is noticed within 80 s, on channels with a call in flight only.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.service_config", json.dumps(self._service_config())),
        ]

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials of a TLS channel; None for plain text.

        Raises:
            OSError: the certificate file cannot be read.
        """
        if self.tls is None:
            return None
        roots = self.tls.root_certificates
        return grpc.ssl_channel_credentials(Path(roots).read_bytes() if roots else None)

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Metadata of every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def _service_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
        if self.retry.attempts > 1:
            config["methodConfig"] = [
                {
                    "name": [
                        {"service": service, "method": method}
                        for service, methods in _REPEATABLE.items()
                        for method in methods
                    ],
                    "retryPolicy": {
                        "maxAttempts": self.retry.attempts,
                        "initialBackoff": f"{self.retry.initial_s}s",
                        "maxBackoff": f"{self.retry.max_s}s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ]
        return config
