"""One server: loaded, listening, and brought down in order."""

import asyncio
import gc
import logging
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from saekit.v1 import registry_service_pb2, sae_service_pb2
from saekit_server.address import split_address
from saekit_server.config import ServeConfig
from saekit_server.engine.engine import Engine
from saekit_server.handlers.context import MAX_MESSAGE_BYTES, Context
from saekit_server.handlers.decode import DecodeHandler
from saekit_server.handlers.encode import EncodeHandler
from saekit_server.handlers.inputs import InputReader
from saekit_server.handlers.registry import RegistryHandler
from saekit_server.handlers.run import RunHandler
from saekit_server.handlers.steer import SteerHandler
from saekit_server.http import HttpServer
from saekit_server.loading import Parts, clock, load_parts, load_saes
from saekit_server.metrics import Metrics
from saekit_server.registry.polling import Poller
from saekit_server.servicers import Adapter

_log = logging.getLogger(__name__)

_SAE_SERVICE = sae_service_pb2.DESCRIPTOR.services_by_name["SAEService"]
_REGISTRY_SERVICE = registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"]
_SERVICES = (_SAE_SERVICE.full_name, _REGISTRY_SERVICE.full_name)


class Server:
    """What `saekit serve` runs.

    `start` returns when it serves; `stop` drains it. Between the two, `address` and
    `http_address` say where.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.address = ""
        self.http_address: str | None = None
        self._serving = False
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="saekit-tokenize")
        self._health = health.aio.HealthServicer()
        self._grpc: grpc.aio.Server | None = None
        self._http: HttpServer | None = None
        self._followers: list[Poller] = []
        self._parts: Parts | None = None
        self._registry_handler: RegistryHandler | None = None
        self._watchdog: asyncio.Task[None] | None = None
        self.failed = asyncio.Event()
        """Set when the device thread has been stuck for good."""

    @property
    def parts(self) -> Parts:
        """Model, registry and engine; after `start`."""
        if self._parts is None:
            raise RuntimeError("the server has not been started")
        return self._parts

    async def start(self) -> None:
        """Loads everything, then listens.

        Raises:
            DomainError, LMError, SAEError: what was asked for cannot be loaded or does not fit.
            OSError: an address is taken.
        """
        split_address(self.config.listen)  # before anything that takes long
        if self.config.http is not None:
            # First of all, so that an orchestrator sees that a large model is still being loaded.
            self._http = HttpServer(self.config.http, self.metrics.registry, lambda: self._serving)
            await self._http.start()
            self.http_address = self._http.address
        loop = asyncio.get_running_loop()
        self._parts = await loop.run_in_executor(None, load_parts, self.config, self.metrics)
        self._parts.engine.start(loop)
        self._followers = await loop.run_in_executor(
            None, load_saes, self.config, self._parts.registry
        )
        await self._listen(self._parts)
        for follower in self._followers:
            follower.start()
        # What is loaded stays; a collection that walks through all of it would be a pause for all.
        gc.collect()
        gc.freeze()
        await self._set_serving(True)
        self._watchdog = asyncio.create_task(self._watch_device(self._parts.engine))

    async def stop(self) -> None:
        """Drains: NOT_SERVING, a while for load balancers to notice, no new calls, the end."""
        await self._set_serving(False)
        if self._watchdog is not None:
            self._watchdog.cancel()
            await asyncio.gather(self._watchdog, return_exceptions=True)
        for follower in self._followers:
            await asyncio.get_running_loop().run_in_executor(None, follower.stop)
        if self._grpc is not None:
            await asyncio.sleep(self.config.drain_s)
            if self._registry_handler is not None:
                self._registry_handler.close()
            if self._parts is not None:
                self._parts.engine.drain()
            await self._grpc.stop(self.config.grace_s)
        if self._parts is not None:
            self._parts.registry.close()
            await asyncio.get_running_loop().run_in_executor(None, self._parts.engine.stop)
        if self._http is not None:
            await self._http.stop()
        self._pool.shutdown()

    async def _listen(self, parts: Parts) -> None:
        context = Context(
            parts.model,
            parts.registry,
            parts.engine,
            InputReader(parts.model, self._pool),
            parts.limits,
        )
        encode, decode = EncodeHandler(context), DecodeHandler(context)
        run, steer, registry = RunHandler(context), SteerHandler(context), RegistryHandler(context)
        self._registry_handler = registry
        adapter = Adapter(self.metrics, clock)
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ]
        )
        server.add_generic_rpc_handlers(
            (
                adapter.service(
                    _SAE_SERVICE,
                    {
                        "Encode": encode.encode,
                        "Decode": decode.decode,
                        "RunWithSAEs": run.run,
                        "EncodeStream": encode.encode_stream,
                        "DecodeStream": decode.decode_stream,
                        "RunWithSAEsStream": run.run_stream,
                        "Steer": steer.steer,
                    },
                ),
                adapter.service(
                    _REGISTRY_SERVICE,
                    {
                        "ListSAEs": registry.list_saes,
                        "GetSAE": registry.get_sae,
                        "LoadSAE": registry.load_sae,
                        "UnloadSAE": registry.unload_sae,
                        "WatchSAEs": registry.watch_saes,
                        "GetModel": registry.get_model,
                        "Tokenize": registry.tokenize,
                        "GetFeatures": registry.get_features,
                    },
                ),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        host, port = split_address(self.config.listen)
        try:
            bound = server.add_insecure_port(
                f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
            )
        except RuntimeError as error:  # grpc's own, which says no more than that
            raise OSError(f"cannot listen on {self.config.listen}: is it taken?") from error
        self._grpc = server
        await self._set_serving(False)
        await server.start()
        self.address = f"{host}:{bound}"

    async def _set_serving(self, serving: bool) -> None:
        self._serving = serving
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", *_SERVICES):
            await self._health.set(name, status)

    async def _watch_device(self, engine: Engine) -> None:
        """NOT_SERVING while the device makes no step with work pending; `failed` after twice."""
        while True:
            await asyncio.sleep(min(1.0, self.config.stuck_s / 4))
            stalled = engine.stalled_s()
            if self._serving != (stalled < self.config.stuck_s):
                _log.error("no step for %.0f s with work pending", stalled)
                await self._set_serving(not self._serving)
            if stalled >= 2 * self.config.stuck_s:
                self.failed.set()
