"""Priority of the wire to the scheduler's."""

from saekit.v1 import sae_service_pb2 as pb
from saekit_server.scheduler import Priority

_PRIORITIES = {
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    pb.PRIORITY_BATCH: Priority.BATCH,
}


def priority(asked: "pb.Priority", default: Priority = Priority.INTERACTIVE) -> Priority:
    """The scheduler's priority of a request's."""
    return _PRIORITIES.get(asked, default)
