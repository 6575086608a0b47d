"""Streams over a real connection to servers that answer late, out of order, partly, or go away."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from tests.client.conftest import Serve

from saekit.v1 import input_pb2, sae_service_pb2
from saekit.v1.sae_service_pb2_grpc import SAEServiceServicer
from saekit_client import (
    AsyncClient,
    Batch,
    Client,
    DeadlineExceededError,
    InvalidArgumentError,
    RetryPolicy,
    SAEKitError,
    UnavailableError,
)
from saekit_client.batch import StreamItem
from saekit_client.results import EncodeResult

QUICK = RetryPolicy(attempts=4, initial_s=0.01, max_s=0.02)
Frame = sae_service_pb2.EncodeStreamResponse
Behaviour = Callable[[Iterator[input_pb2.Input], grpc.ServicerContext], Iterator[Frame]]


def answer(item: input_pb2.Input) -> Frame:
    """A result whose window_start is the length of the text, to tell whose it is."""
    return Frame(
        id=item.id,
        last=True,
        header=sae_service_pb2.EncodeResult(id=item.id, window_start=len(item.text)),
        served_by=input_pb2.ServedBy(model="m"),
    )


def refuse(item: input_pb2.Input, code: grpc.StatusCode) -> Frame:
    return Frame(id=item.id, last=True, status=status_pb2.Status(code=code.value[0], message="no"))


class Streaming(SAEServiceServicer):
    """Answers each call of EncodeStream with the next behaviour, the last one for ever."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)
        self.calls = 0
        self.ended = threading.Event()

    def EncodeStream(self, requests: Any, context: Any) -> Iterator[Frame]:  # noqa: N802
        behaviour = self.behaviours[min(self.calls, len(self.behaviours) - 1)]
        self.calls += 1
        context.add_callback(self.ended.set)
        assert next(requests).HasField("options")
        yield from behaviour((r.input for r in requests), context)


def prompt(items: Iterator[input_pb2.Input], _: Any) -> Iterator[Frame]:
    for item in items:
        yield answer(item)


# Every promise holds for both clients: a stream of either as a list of outcomes.


def collect_sync(address: str, inputs: Any, **settings: Any) -> list[StreamItem[EncodeResult]]:
    with Client(address, retry=QUICK) as client:
        return list(client.encode_stream(inputs, "sae", **settings))


def collect_async(address: str, inputs: Any, **settings: Any) -> list[StreamItem[EncodeResult]]:
    async def collect() -> list[StreamItem[EncodeResult]]:
        async with AsyncClient(address, retry=QUICK) as client:
            return [item async for item in client.encode_stream(inputs, "sae", **settings)]

    return asyncio.run(collect())


Collect = Callable[..., list[StreamItem[EncodeResult]]]
both = pytest.mark.parametrize("collect", [collect_sync, collect_async], ids=["sync", "async"])
TEXTS = ["x" * n for n in range(1, 41)]


def lengths(items: list[StreamItem[EncodeResult]]) -> dict[int, int]:
    return {item.index: item.result.window_start for item in items}


@both
def test_results_out_of_order_reach_their_inputs(serve: Serve, collect: Collect) -> None:
    def reversed_tens(items: Iterator[input_pb2.Input], _: Any) -> Iterator[Frame]:
        while batch := [item for _, item in zip(range(10), items, strict=False)]:
            yield from map(answer, reversed(batch))

    address = serve(Streaming(reversed_tens))
    items = collect(address, TEXTS, window=10)
    assert [i.index for i in items][:3] == [9, 8, 7]
    assert lengths(items) == {i: len(text) for i, text in enumerate(TEXTS)}


@both
def test_ordered_yields_in_input_order_with_errors_in_their_places(
    serve: Serve, collect: Collect
) -> None:
    def reversed_tens(items: Iterator[input_pb2.Input], _: Any) -> Iterator[Frame]:
        while batch := [item for _, item in zip(range(10), items, strict=False)]:
            for item in reversed(batch):
                bad = len(item.text) % 7 == 0
                yield refuse(item, grpc.StatusCode.INVALID_ARGUMENT) if bad else answer(item)

    address = serve(Streaming(reversed_tens))
    items = collect(address, TEXTS, window=10, ordered=True)
    assert [i.index for i in items] == list(range(40))
    assert [i.index for i in items if i.error] == [6, 13, 20, 27, 34]


@both
def test_never_more_than_the_window_is_outstanding(serve: Serve, collect: Collect) -> None:
    seen: list[int] = []

    def hoard(items: Iterator[input_pb2.Input], _: Any) -> Iterator[Frame]:
        held: list[input_pb2.Input] = []
        arrived = threading.Event()

        def read() -> None:
            for item in items:
                held.append(item)
                arrived.set()
            arrived.set()

        reader = threading.Thread(target=read)
        reader.start()
        while reader.is_alive() or held:
            arrived.wait(0.05)
            time.sleep(0.02)  # whatever the client still wants to send arrives meanwhile
            seen.append(len(held))
            if held:
                yield answer(held.pop())
        reader.join()

    items = collect(serve(Streaming(hoard)), TEXTS[:12], window=3)
    assert len(items) == 12
    assert max(seen) == 3


@both
def test_a_full_server_is_asked_again_item_by_item(serve: Serve, collect: Collect) -> None:
    refused: set[str] = set()

    def full_once(items: Iterator[input_pb2.Input], _: Any) -> Iterator[Frame]:
        for item in items:
            if len(item.text) % 3 == 0 and item.text not in refused:
                refused.add(item.text)
                yield refuse(item, grpc.StatusCode.UNAVAILABLE)
            else:
                yield answer(item)

    items = collect(serve(Streaming(full_once)), TEXTS)
    assert len(refused) == 13
    assert lengths(items) == {i: len(text) for i, text in enumerate(TEXTS)}


@both
def test_a_server_that_goes_away_midway_costs_no_item(serve: Serve, collect: Collect) -> None:
    def leaves(items: Iterator[input_pb2.Input], context: Any) -> Iterator[Frame]:
        for _, item in zip(range(15), items, strict=False):
            yield answer(item)
        context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    servicer = Streaming(leaves, leaves, prompt)
    items = collect(serve(servicer), iter(TEXTS), window=8)
    assert servicer.calls >= 3
    assert sorted(i.index for i in items) == list(range(40))
    assert lengths(items) == {i: len(text) for i, text in enumerate(TEXTS)}


@both
def test_a_server_that_stays_away_ends_the_stream(serve: Serve, collect: Collect) -> None:
    def away(_: Iterator[input_pb2.Input], context: Any) -> Iterator[Frame]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        yield Frame()

    servicer = Streaming(away)
    with pytest.raises(UnavailableError, match="draining"):
        collect(serve(servicer), TEXTS)
    assert servicer.calls == QUICK.attempts


@both
def test_a_refused_call_is_an_error_at_once(serve: Serve, collect: Collect) -> None:
    def refuses(_: Iterator[input_pb2.Input], context: Any) -> Iterator[Frame]:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "saes: expected at least one")
        yield Frame()

    servicer = Streaming(refuses)
    with pytest.raises(InvalidArgumentError, match="at least one"):
        collect(serve(servicer), TEXTS)
    # grpc.aio may lose the status of a call that ends while it is written to: asked once more.
    assert servicer.calls == 1 or (collect is collect_async and servicer.calls == 2)


@both
def test_a_stream_that_ends_early_is_an_error(serve: Serve, collect: Collect) -> None:
    def stops(items: Iterator[input_pb2.Input], _: Any) -> Iterator[Frame]:
        for _, item in zip(range(40), items, strict=False):
            if len(item.text) < 10:
                yield answer(item)

    with pytest.raises(SAEKitError, match="results outstanding"):
        collect(serve(Streaming(stops)), TEXTS)


@both
def test_the_deadline_ends_a_stream(serve: Serve, collect: Collect) -> None:
    def hangs(_: Iterator[input_pb2.Input], context: Any) -> Iterator[Frame]:
        while context.is_active():
            time.sleep(0.02)
        yield from ()

    with pytest.raises(DeadlineExceededError):
        collect(serve(Streaming(hangs)), TEXTS, timeout=0.3)


@both
def test_an_error_of_the_callers_iterator_comes_back_to_the_caller(
    serve: Serve, collect: Collect
) -> None:
    def broken() -> Iterator[str]:
        yield from TEXTS[:5]
        raise ZeroDivisionError("the caller's own")

    with pytest.raises(ZeroDivisionError, match="the caller's own"):
        collect(serve(Streaming(prompt)), broken())


@both
def test_an_input_of_a_wrong_type_fails_alone(serve: Serve, collect: Collect) -> None:
    items = collect(serve(Streaming(prompt)), ["a", float("nan"), "ccc"], ordered=True)
    assert [i.index for i in items] == [0, 1, 2]
    assert isinstance(items[1].error, InvalidArgumentError)
    assert items[2].result.window_start == 3


@both
def test_a_stream_of_only_bad_inputs_ends(serve: Serve, collect: Collect) -> None:
    items = collect(serve(Streaming(prompt)), [None, None, None], window=1, ordered=True)
    assert [type(i.error) for i in items] == [InvalidArgumentError] * 3


@both
def test_no_inputs_give_no_results(serve: Serve, collect: Collect) -> None:
    assert collect(serve(Streaming(prompt)), []) == []


def test_closing_the_iterator_cancels_the_call(serve: Serve) -> None:
    servicer = Streaming(prompt)
    with Client(serve(servicer)) as client:
        items = client.encode_stream(iter(lambda: "endless", None), "sae")
        assert next(items).result.window_start == 7
        items.close()  # type: ignore[attr-defined]
        assert servicer.ended.wait(5)


async def test_leaving_an_async_stream_cancels_the_call(serve: Serve) -> None:
    servicer = Streaming(prompt)

    async def endless() -> AsyncIterator[str]:
        while True:
            yield "endless"

    async with AsyncClient(serve(servicer)) as client:
        items = client.encode_stream(endless(), "sae")
        async for item in items:
            assert item.result.window_start == 7
            break
        await items.aclose()  # type: ignore[attr-defined]
        assert await asyncio.to_thread(servicer.ended.wait, 5)


def test_encode_of_a_list_gives_every_input_its_own_outcome(serve: Serve) -> None:
    def odd(items: Iterator[input_pb2.Input], _: Any) -> Iterator[Frame]:
        for item in items:
            bad = len(item.text) % 10 == 0
            yield refuse(item, grpc.StatusCode.INVALID_ARGUMENT) if bad else answer(item)

    with Client(serve(Streaming(odd))) as client:
        batch = client.encode(TEXTS, "sae")
    assert isinstance(batch, Batch)
    assert len(batch) == 40
    assert list(batch.errors) == [9, 19, 29, 39]
    assert [r.index for r in batch.successes] == [i for i in range(40) if i % 10 != 9]
    assert batch[3].window_start == 4
    with pytest.raises(InvalidArgumentError):
        _ = batch[9]
    with pytest.raises(InvalidArgumentError):
        list(batch)


def test_progress_is_shown_on_stderr_when_asked_for(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(serve(Streaming(prompt))) as client:
        client.encode(TEXTS, "sae", progress=True)
        shown = capsys.readouterr()
        client.encode(TEXTS, "sae")
    assert "40/40" in shown.err
    assert shown.out == ""
    assert capsys.readouterr().err == ""


def test_the_unary_promise_of_encode_is_one_result(serve: Serve) -> None:
    class Empty(SAEServiceServicer):
        def Encode(self, *_: Any) -> Any:  # noqa: N802
            return sae_service_pb2.EncodeResponse()

    with (
        Client(serve(Empty())) as client,
        pytest.raises(SAEKitError, match="0 results for one input"),
    ):
        client.encode("text", "sae")
