"""What the scheduler may spend in one tick, and how much it may keep waiting."""

from dataclasses import dataclass, fields
from typing import NamedTuple


class Budget(NamedTuple):
    """Room for one batch: padded tokens (for SAE work: rows) and bytes of device memory."""

    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one scheduler; raises ValueError for limits that contradict each other."""

    n_slots: int = 16
    """Key-value slots for streams of generated text; 0 serves none."""

    max_batch_tokens: int = 8192
    """Padded tokens of one tick's forward batch and prefill together."""

    mixed_batch_tokens: int = 512
    """The same while streams are decoding, so that the time between two of their tokens stays
    bounded. A single longer job still runs, alone; it cannot be cut in two."""

    max_batch_bytes: int = 1 << 30
    """Device memory of one batch. The batches of a tick run one after the other, so each has it
    all."""

    max_sae_rows: int = 16384
    """Rows of one SAE-only batch."""

    mixed_sae_rows: int = 2048
    """The same while streams are decoding."""

    max_queued_jobs: int = 16384
    max_queued_tokens: int = 1 << 22
    """Sum of `Job.cost` over all that wait."""

    max_caller_jobs: int = 8192
    """How much of the queue one caller may fill."""

    max_caller_tokens: int = 1 << 21

    window: int = 256
    """Waiting jobs, taken from the callers in turn, among which similar lengths are sought."""

    batch_overhead_tokens: int = 128
    """What one more batch costs whatever it holds, in tokens of compute. Two lengths are similar
    when padding the shorter one costs less than giving it a batch of its own."""

    age_cap_s: float = 1.0
    """A BATCH job that has waited this long lets its priority lead every other batch; a stream
    that has waited this long for several slots is not overtaken any more."""

    max_delay_s: float = 0.0
    """How long a batch that is not full may wait for company. 0: batches form while the device is
    busy, and an idle device starts at once."""

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name in ("n_slots", "age_cap_s", "max_delay_s") else 1
            _require(self, field.name, at_least=least)
        _require(self, "mixed_batch_tokens", at_most="max_batch_tokens")
        _require(self, "mixed_sae_rows", at_most="max_sae_rows")
        _require(self, "max_caller_jobs", at_most="max_queued_jobs")
        _require(self, "max_caller_tokens", at_most="max_queued_tokens")
        # Prefill may claim half of a tick's tokens, which must hold one token of every slot.
        _require(self, "mixed_batch_tokens", at_least=2 * self.n_slots)

    def forward_budget(self, *, mixed: bool) -> Budget:
        """Budget of a tick's forward batch and prefill; `mixed` while streams are decoding."""
        tokens = self.mixed_batch_tokens if mixed else self.max_batch_tokens
        return Budget(tokens, self.max_batch_bytes)

    def sae_budget(self, *, mixed: bool) -> Budget:
        """Budget of a tick's SAE-only batch."""
        return Budget(self.mixed_sae_rows if mixed else self.max_sae_rows, self.max_batch_bytes)


def _require(limits: Limits, field: str, *, at_least: int = 0, at_most: str = "") -> None:
    value = getattr(limits, field)
    if value < at_least:
        raise ValueError(f"Limits.{field}: got {value}, expected at least {at_least}")
    if at_most and value > getattr(limits, at_most):
        raise ValueError(
            f"Limits.{field}: got {value}, expected at most {at_most} = {getattr(limits, at_most)}"
        )
