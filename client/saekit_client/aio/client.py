"""The client for asyncio."""

from __future__ import annotations

from saekit_client.aio.encode import AsyncEncodeCalls
from saekit_client.aio.registry import AsyncRegistryCalls
from saekit_client.aio.run import AsyncRunCalls


class AsyncClient(AsyncEncodeCalls, AsyncRunCalls, AsyncRegistryCalls):
    """`Client` for asyncio: the same methods, awaited; streams are asynchronous iterators.

    To be made and used in one event loop. `async with` waits until the server answers, as `connect`
    does; without either the first call does.
    """
