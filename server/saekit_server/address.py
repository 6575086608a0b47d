"""host:port."""

from saekit_server.errors import invalid


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[IPV6]:PORT` or `:PORT` (all interfaces).

    Raises:
        DomainError: no port between 0 and 65535.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise invalid("address", f"expected HOST:PORT, got {address!r}")
    return host.strip("[]") or "0.0.0.0", int(port)
