"""A real server on a real socket, on a thread of the test's own process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from saekit.v1 import registry_service_pb2_grpc, sae_service_pb2_grpc
from saekit_server.config import ServeConfig
from saekit_server.server import Server


@dataclass(frozen=True)
class Running:
    """A server that serves, and stubs that reach it."""

    server: Server
    loop: asyncio.AbstractEventLoop
    channel: grpc.Channel

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def sae(self) -> sae_service_pb2_grpc.SAEServiceStub:
        return sae_service_pb2_grpc.SAEServiceStub(self.channel)

    @property
    def registry(self) -> registry_service_pb2_grpc.RegistryServiceStub:
        return registry_service_pb2_grpc.RegistryServiceStub(self.channel)


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Returns once the condition holds; fails if it does not in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.002)


@contextmanager
def serving(config: ServeConfig) -> Iterator[Running]:
    """Starts a server, and drains it at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server-loop")
    thread.start()

    async def make() -> Server:
        return Server(config)

    try:
        server = asyncio.run_coroutine_threadsafe(make(), loop).result()
        try:
            asyncio.run_coroutine_threadsafe(server.start(), loop).result(120)
            options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
            with grpc.insecure_channel(server.address, options=options) as channel:
                yield Running(server, loop, channel)
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
