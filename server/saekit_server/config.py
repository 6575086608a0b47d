"""Settings of a server, in one place with their meaning."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServeConfig:
    """What `saekit serve` was told."""

    model: str | None = None
    """Name on the Hugging Face hub or a local folder; None serves the embedded default."""
    revision: str | None = None
    """Revision of a hub model."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: str = "float32"
    """Element type that the model runs in: float32, bfloat16 or float16."""
    sae_dtype: str | None = None
    """Element type that SAEs run in; None: each in its own."""
    saes: tuple[str, ...] = ()
    """`[NAME=]SPEC` of SAEs to load at start."""
    sae_dir: Path | None = None
    """Folder of SAEs: relative specs and loads are resolved below it; None with the embedded model:
    its own SAEs."""
    watch: bool = False
    """Follow `sae_dir`: load what appears, reload what changes, unload what goes."""
    watch_interval_s: float = 0.5
    """Seconds between two looks at `sae_dir`."""
    manifest: Path | None = None
    """TOML file that the registry converges to, now and when it changes."""
    slots: int = 16
    """Steer rows (choices and baselines) that run at once."""
    max_length: int | None = None
    """Tokens of an input, and of an input with its generation. None: the model's context."""
    memory_fraction: float = 0.9
    """Share of the device's memory (of the machine's, on a CPU) that may be planned for."""
    listen: str = "127.0.0.1:50051"
    """Address of gRPC; port 0 takes a free one."""
    http: str | None = None
    """Address of /metrics, /healthz and /readyz; port 0 takes a free one. None: no HTTP."""
    max_batch_tokens: int = 8192
    """Padded tokens of one forward batch."""
    max_queued_requests: int = 4096
    """Requests that may wait."""
    max_queued_tokens: int = 4_000_000
    """Tokens that may wait."""
    threads: int | None = None
    """Threads of the CPU kernels; None: torch's own choice."""
    drain_s: float = 2.0
    """Seconds from NOT_SERVING to refusing new calls, so that load balancers notice."""
    grace_s: float = 20.0
    """Seconds that running calls get to finish after that."""
    stuck_s: float = 60.0
    """No step for this long with work pending: NOT_SERVING; twice as long: exit 1."""
