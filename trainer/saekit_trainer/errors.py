"""What can go wrong while an SAE is trained, as exceptions that name the field at fault."""

from __future__ import annotations

import signal


class TrainerError(Exception):
    """Training cannot start or go on.

    Attributes:
        field: the name of the offending configuration field; None where there is no single one.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConfigError(TrainerError):
    """A configuration names an unknown field, or a value that cannot be used."""


class DatasetError(TrainerError):
    """A data set is missing, empty, or of a kind that cannot be read."""


class CacheError(TrainerError):
    """Cached activations cannot be written or read, or do not fit the run."""


class DivergedError(TrainerError):
    """The loss is no longer a finite number."""


class PublishError(TrainerError):
    """The folder for finished SAEs cannot be written, or the name is taken or not allowed."""


class PeerLostError(TrainerError):
    """Another process of the same run has ended or cannot be reached."""


class CheckpointError(TrainerError):
    """The state of a run cannot be written or read, or is of another run."""


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended the run; the message says from where it goes on.

    Attributes:
        signal: SIGINT or SIGTERM.
    """

    def __init__(self, signal: signal.Signals, message: str = "") -> None:
        super().__init__(message or f"stopped by {signal.name}")
        self.signal = signal

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that such a signal ended: 130 or 143."""
        return 128 + self.signal
