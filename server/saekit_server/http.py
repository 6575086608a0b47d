"""The HTTP side: Prometheus metrics and probes for orchestrators."""

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from saekit_server.address import split_address


class HttpServer:
    """Serves /metrics, /healthz (the process answers) and /readyz (the server serves)."""

    def __init__(self, address: str, metrics: CollectorRegistry, ready: Callable[[], bool]) -> None:
        async def scrape(_: Request) -> Response:
            return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

        async def healthz(_: Request) -> Response:
            return PlainTextResponse("ok\n")

        async def readyz(_: Request) -> Response:
            if ready():
                return PlainTextResponse("ready\n")
            return PlainTextResponse("not ready\n", status_code=503)

        routes = [Route("/metrics", scrape), Route("/healthz", healthz), Route("/readyz", readyz)]
        self._host, port = split_address(address)
        try:
            self._socket = socket.create_server((self._host, port))
        except OSError as error:
            raise OSError(f"cannot listen on {address}: {error.strerror}") from error
        config = uvicorn.Config(Starlette(routes=routes), log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """host:port that it listens on."""
        return f"{self._host}:{self._socket.getsockname()[1]}"

    async def start(self) -> None:
        """Begins to answer."""
        # serve() would take over the process's signals, which belong to the gRPC server's shutdown.
        self._server.config.load()
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup(sockets=[self._socket])
        self._task = asyncio.create_task(self._server.main_loop())

    async def stop(self) -> None:
        """Stops answering and closes its socket."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
            await self._server.shutdown(sockets=[self._socket])
        self._socket.close()
