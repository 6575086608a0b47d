"""Errors of the core, told in the field names of the wire."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from saekit.v1 import intervention_pb2
from saekit_server.errors import DomainError, at_field

POSITIONS = {"ranges[": "ranges.ranges[", "roles[": "roles.roles["}
"""Of PositionSelector."""
NO_NAMES: Mapping[str, str] = {}


@contextmanager
def at_wire_field(
    parent: str, names: Mapping[str, str] = NO_NAMES, *, item: str = ""
) -> Iterator[None]:
    """As `at_field`, for what the core calls otherwise than the wire.

    Args:
        parent: path of the field that is read.
        names: parts of the core's field names, and what stands for them in a request.
        item: the input at which an option failed; the message begins with it.
    """
    try:
        with at_field(""):
            yield
    except DomainError as error:
        field = error.field or ""
        for core, wire in names.items():
            field = field.replace(core, wire)
        message = f"{item}: {error.message}" if item else error.message
        told = DomainError(error.code, message, field=field, retry_after_s=error.retry_after_s)
        raise told.within(parent) from error.__cause__


def intervention_names(message: intervention_pb2.Interventions) -> Mapping[str, str]:
    """What the core calls otherwise in these interventions."""
    actions = {
        f"conditions[{i}].action": f"conditions[{i}].{condition.WhichOneof('action')}"
        for i, condition in enumerate(message.conditions)
    }
    return {**POSITIONS, **actions}
