"""PositionSelector messages to the domain's."""

from saekit.v1 import input_pb2 as pb
from saekit_core.lm.positions import PositionSelector, Region
from saekit_server.errors import invalid
from saekit_server.wire.fields import POSITIONS, at_wire_field

_REGIONS = {
    pb.PositionSelector.REGION_UNSPECIFIED: Region.ALL,
    pb.PositionSelector.REGION_ALL: Region.ALL,
    pb.PositionSelector.REGION_PROMPT: Region.PROMPT,
    pb.PositionSelector.REGION_GENERATED: Region.GENERATED,
    pb.PositionSelector.REGION_LAST_PROMPT: Region.LAST_PROMPT,
}


def position_selector(message: pb.PositionSelector) -> PositionSelector:
    """The domain's selector.

    Raises:
        DomainError: a selector that contradicts itself, naming its field.
    """
    ranges: tuple[tuple[int, int | None], ...] = ()
    roles: tuple[str, ...] = ()
    match message.WhichOneof("select"):
        case "ranges":
            ranges = tuple(
                (r.start, r.end if r.HasField("end") else None) for r in message.ranges.ranges
            )
            if not ranges:
                raise invalid("ranges.ranges", "expected at least one range")
        case "roles":
            roles = tuple(message.roles.roles)
            if not roles:
                raise invalid("roles.roles", "expected at least one role")
    select = message.WhichOneof("select")
    with at_wire_field("", POSITIONS):
        return PositionSelector(
            region=_REGIONS[message.region] if select in (None, "region") else None,
            last_n=message.last_n if select == "last_n" else None,
            ranges=ranges,
            roles=roles,
            include_bos=message.include_bos,
            include_special=not message.HasField("include_special") or message.include_special,
        )
