"""The scheduler: plain Python that knows jobs, budgets and ages, and neither tensors nor wires."""

from saekit_server.scheduler.admission import Room
from saekit_server.scheduler.errors import (
    AdmissionError,
    DrainingError,
    IntegrityError,
    NeverFitsError,
    QueueFullError,
    QuotaExceededError,
)
from saekit_server.scheduler.figures import Depth, Figures
from saekit_server.scheduler.job import ForwardJob, Job, JobId, Kind, Priority, SAEJob, SteerJob
from saekit_server.scheduler.limits import Budget, Limits
from saekit_server.scheduler.scheduler import Scheduler
from saekit_server.scheduler.tick import Drop, DropReason, Prefill, Tick

__all__ = [
    "AdmissionError",
    "Budget",
    "Depth",
    "DrainingError",
    "Drop",
    "DropReason",
    "Figures",
    "ForwardJob",
    "IntegrityError",
    "Job",
    "JobId",
    "Kind",
    "Limits",
    "NeverFitsError",
    "Prefill",
    "Priority",
    "QueueFullError",
    "QuotaExceededError",
    "Room",
    "SAEJob",
    "Scheduler",
    "SteerJob",
    "Tick",
]
