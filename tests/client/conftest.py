"""A gRPC server whose answers a test writes itself: what is tested is how the client takes them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from saekit.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)
from saekit.v1.sae_service_pb2_grpc import SAEServiceServicer, add_SAEServiceServicer_to_server

Servicer = SAEServiceServicer | RegistryServiceServicer
Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server of the given servicers; returns its address."""
    servers = []

    def start(*servicers: Servicer, credentials: grpc.ServerCredentials | None = None) -> str:
        server = grpc.server(ThreadPoolExecutor(8))
        for servicer in servicers:
            if isinstance(servicer, SAEServiceServicer):
                add_SAEServiceServicer_to_server(servicer, server)
            else:
                add_RegistryServiceServicer_to_server(servicer, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("localhost:0", credentials)
        server.start()
        servers.append(server)
        return f"localhost:{port}"

    yield start
    for server in servers:
        server.stop(grace=None).wait()
