"""Programs that call a server: several at once, with the plain stubs of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import grpc

from saekit.codec import rows_to_csr
from saekit.v1 import input_pb2
from saekit.v1 import sae_service_pb2 as pb
from saekit.v1.sae_service_pb2_grpc import SAEServiceStub

T = TypeVar("T")
_OPTIONS: Final = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


class Callers:
    """So many callers, each with a connection of its own."""

    def __init__(self, address: str, count: int) -> None:
        self._channels = [grpc.insecure_channel(address, options=_OPTIONS) for _ in range(count)]
        self.stubs = [SAEServiceStub(channel) for channel in self._channels]
        self._pool = ThreadPoolExecutor(count)

    def each(self, work: Callable[[Any, int], T], items: int) -> list[T]:
        """`work(stub, item)` for every item; a caller takes the next when it is free."""
        waiting = iter(range(items))

        def caller(stub: Any) -> list[tuple[int, T]]:
            return [(item, work(stub, item)) for item in waiting]

        # A plain iterator over a range is safe to share between threads under the GIL.
        done = [pair for part in self._pool.map(caller, self.stubs) for pair in part]
        return [result for _, result in sorted(done, key=lambda pair: pair[0])]

    def encode(self, requests: Sequence[pb.EncodeRequest]) -> int:
        """Sends all requests, reads every answer, and counts its tokens."""

        def call(stub: Any, item: int) -> int:
            return tokens_of(stub.Encode(requests[item]))

        return sum(self.each(call, len(requests)))

    def close(self) -> None:
        self._pool.shutdown()
        for channel in self._channels:
            channel.close()


@contextmanager
def callers(address: str, count: int) -> Iterator[Callers]:
    """Closed at the end."""
    made = Callers(address, count)
    try:
        yield made
    finally:
        made.close()


def encode_requests(
    texts: Sequence[str], saes: Sequence[str], *, per_call: int
) -> list[pb.EncodeRequest]:
    """Requests for the active features of all texts, some texts in each."""
    options = pb.EncodeOptions(saes=[pb.SAEQuery(sae=sae) for sae in saes])
    return [
        pb.EncodeRequest(
            options=options,
            inputs=[input_pb2.Input(text=text) for text in texts[start : start + per_call]],
        )
        for start in range(0, len(texts), per_call)
    ]


def tokens_of(response: pb.EncodeResponse) -> int:
    """Reads the arrays of an answer as a client does; how many tokens they are of."""
    tokens = 0
    for result in response.results:
        for encoding in result.encodings:
            csr = rows_to_csr(encoding.sparse)
        tokens += csr.shape[0]
    return tokens
