"""gRPC on the outside: calls in, handlers, domain errors out as status codes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from saekit_server.engine.call import Call
from saekit_server.errors import DomainError, told
from saekit_server.metrics import Metrics
from saekit_server.wire.status import status_message
from saekit_server.wire.validate import check_known

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
# (request or requests, call) -> an awaited response, or an iterator of responses.
Handler = Callable[[Any, Call], Any]
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Adapter:
    """Runs handlers for gRPC: validates, times, counts, and translates errors."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock

    def service(
        self, descriptor: ServiceDescriptor, handlers: Mapping[str, Handler]
    ) -> grpc.GenericRpcHandler:
        """A gRPC service of one handler for each of its methods.

        Raises:
            ValueError: a method has no handler, or a handler no method.
        """
        names = {method.name for method in descriptor.methods}
        if names != set(handlers):
            raise ValueError(f"{descriptor.full_name}: {names ^ set(handlers)} do not match")
        return grpc.method_handlers_generic_handler(
            descriptor.full_name,
            {m.name: self._method(m, handlers[m.name]) for m in descriptor.methods},
        )

    def _method(
        self, method: MethodDescriptor, handler: Handler
    ) -> grpc.RpcMethodHandler[Any, Any]:
        request_class = GetMessageClass(method.input_type)
        rpc = (method.containing_service.full_name, method.name)

        async def unary(request: Message, context: Context) -> Message | None:
            with _Observed(self._metrics, rpc) as observed:
                try:
                    check_known(request)
                    response: Message = await handler(request, self._call(context))
                    return response
                except Exception as error:  # no exception text reaches a client unmapped
                    await observed.fail(context, told(error))
                    return None

        async def stream(requests: Any, context: Context) -> AsyncIterator[Message]:
            with _Observed(self._metrics, rpc) as observed:
                responses = None
                try:
                    if method.client_streaming:
                        requests = _checked(requests)
                    else:
                        check_known(requests)
                    responses = handler(requests, self._call(context))
                    async for response in responses:
                        yield response
                except Exception as error:  # as above
                    await observed.fail(context, told(error))
                finally:
                    # Closing now, not at garbage collection, frees a hung-up client's slot.
                    if responses is not None:
                        await responses.aclose()

        make: Callable[..., grpc.RpcMethodHandler[Any, Any]]
        behaviour: Callable[..., Any] = stream
        match (method.client_streaming, method.server_streaming):
            case (False, False):
                make, behaviour = grpc.unary_unary_rpc_method_handler, unary
            case (False, True):
                make = grpc.unary_stream_rpc_method_handler
            case (True, True):
                make = grpc.stream_stream_rpc_method_handler
            case _:
                raise ValueError(f"{method.full_name}: client streaming alone is not served")
        return make(
            behaviour,
            request_deserializer=request_class.FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )

    def _call(self, context: Context) -> Call:
        remaining = context.time_remaining()
        deadline = None if remaining is None else self._clock() + remaining
        return Call(caller=context.peer(), deadline=deadline)


class _Observed:
    """Counts one call and its duration, however it ends."""

    def __init__(self, metrics: Metrics, rpc: tuple[str, str]) -> None:
        self._metrics = metrics
        self._rpc = rpc
        self._code = "OK"

    def __enter__(self) -> _Observed:
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError | GeneratorExit):
            self._code = "CANCELLED"
        self._metrics.handled.labels(*self._rpc, self._code).inc()
        self._metrics.request_seconds.labels(*self._rpc).observe(time.perf_counter() - self._began)

    async def fail(self, context: Context, error: DomainError) -> None:
        """Ends the call with the error's status."""
        status = status_message(error)
        self._code = error.code
        metadata = [("grpc-status-details-bin", status.SerializeToString())]
        if error.code == "UNAVAILABLE" and error.retry_after_s is not None:
            metadata.append(("grpc-retry-pushback-ms", str(int(error.retry_after_s * 1000))))
        await context.abort(_CODES[status.code], status.message, tuple(metadata))


async def _checked(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
    """The messages of a stream, each refused where it holds what this server does not know."""
    async for request in requests:
        check_known(request)
        yield request
