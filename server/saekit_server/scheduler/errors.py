"""Why a job is not admitted, and what a broken promise of the scheduler's own looks like."""


class AdmissionError(Exception):
    """A job was not admitted; nothing of it is kept.

    `limit` names the field of `Limits` that stood in the way (or ``"draining"``), `value` is what
    was asked for and `allowed` what there is. `retry_after_s` estimates the seconds until the same
    job would be admitted; None means that no wait will help.
    """

    def __init__(
        self, message: str, *, limit: str, value: int, allowed: int, retry_after_s: float | None
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.value = value
        self.allowed = allowed
        self.retry_after_s = retry_after_s


class QueueFullError(AdmissionError):
    """The queue as a whole is full; another replica may have room."""


class QuotaExceededError(AdmissionError):
    """One caller has as much queued as a single caller may."""


class NeverFitsError(AdmissionError):
    """No batch and no queue of this server can ever hold the job."""


class DrainingError(AdmissionError):
    """The scheduler finishes what it has and takes nothing new."""


class IntegrityError(RuntimeError):
    """The scheduler's books do not add up: a bug, never a caller's fault."""


def expect(condition: bool, message: str) -> None:
    """Raises IntegrityError; unlike an assert statement it also speaks under ``python -O``."""
    if not condition:
        raise IntegrityError(message)
