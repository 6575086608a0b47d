"""The bookkeeping of streams, under every order of events."""

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from saekit.codec import CSR, sparse_rows, split_message
from saekit.v1 import input_pb2, sae_service_pb2
from saekit_client.channel import RetryPolicy
from saekit_client.errors import SAEKitError, UnavailableError
from saekit_client.responses import parse_encode
from saekit_client.results import EncodeResult
from saekit_client.stream_requests import encode_items
from saekit_client.stream_state import StreamState

SERVED_BY = input_pb2.ServedBy(model="m", model_revision="r", model_dtype="float32")
UNAVAILABLE = 14


def new_state(**settings: object) -> StreamState[EncodeResult]:
    defaults: dict[str, object] = {"window": 4, "ordered": False, "retry": RetryPolicy()}
    return StreamState(parse_encode, **{**defaults, **settings})  # type: ignore[arg-type]


def frame(id: str, **payload: object) -> sae_service_pb2.EncodeStreamResponse:
    return sae_service_pb2.EncodeStreamResponse(id=id, last=True, served_by=SERVED_BY, **payload)


def header(id: str) -> sae_service_pb2.EncodeResult:
    return sae_service_pb2.EncodeResult(id=id, encodings=[])


def put(state: StreamState[EncodeResult], *texts: object) -> None:
    for id_, make in encode_items(texts):  # type: ignore[arg-type]
        state.put(id_, make)


@given(data=st.data(), n=st.integers(0, 12), window=st.integers(1, 5), ordered=st.booleans())
def test_every_input_ends_exactly_once_within_the_window(
    data: st.DataObject, n: int, window: int, ordered: bool
) -> None:
    """Whatever the server does with each item: answer, fail, be full, break the call."""
    state = new_state(window=window, ordered=ordered, retry=RetryPolicy(attempts=3))
    texts: list[object] = [
        data.draw(st.sampled_from(["text", 3.5]), label="input") for _ in range(n)
    ]
    read, handed, at_server, now = 0, [], [], 0.0
    while not state.done:
        while state.wants_input:
            if read == n:
                state.exhausted = True
            else:
                put(state, texts[read])
                read += 1
        while (message := state.take(now)) is not None:
            at_server.append(message.input.id)  # type: ignore[attr-defined]
        assert len(at_server) <= window
        assert len(set(at_server)) == len(at_server)
        if not at_server:
            handed += state.ready()
            wait = state.delay(now)
            if wait is None:
                break
            now += wait
            continue
        action = data.draw(st.sampled_from(["answer", "refuse", "full", "break"]), label="server")
        if action == "break":
            wait = state.resume_in(UnavailableError("gone"), now)
            if wait is None:
                return
            now, at_server = now + wait, []
            continue
        id_ = at_server.pop(data.draw(st.integers(0, len(at_server) - 1), label="item"))
        if action == "answer":
            sent = frame(id_, header=header(id_))
        else:
            code = UNAVAILABLE if action == "full" else 3
            sent = frame(id_, status=status_pb2.Status(code=code, message=action))
        handed += state.ready(state.receive(sent, now))
    handed += state.ready()
    indices = [item.index for item in handed]
    assert sorted(indices) == list(range(n))
    if ordered:
        assert indices == sorted(indices)
    for item in handed:
        assert (item.error is None) != (item.results == ())
        if texts[item.index] == 3.5:
            assert item.error is not None
        elif item.error is None:
            assert item.result.index == item.index


def test_an_unavailable_item_is_sent_again_after_the_delay_the_server_asks_for() -> None:
    state = new_state()
    put(state, "text")
    assert state.take(0.0) is not None
    status = status_pb2.Status(code=UNAVAILABLE)
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=7)))
    assert state.receive(frame("0", status=status), now=100.0) is None
    assert state.delay(100.0) == pytest.approx(7.0)
    assert state.take(106.9) is None
    assert state.take(107.1) is not None


def test_an_item_that_stays_unavailable_fails_after_the_last_try() -> None:
    state = new_state(retry=RetryPolicy(attempts=2))
    put(state, "text")
    for now in (0.0, 100.0):
        assert state.take(now) is not None
        item = state.receive(frame("0", status=status_pb2.Status(code=UNAVAILABLE)), now)
    assert item is not None
    assert isinstance(item.error, UnavailableError)


def test_parts_of_windows_are_joined_to_their_own_results() -> None:
    """Two windows of one input, each a header and parts, as a large result travels."""
    state = new_state()
    put(state, "text")
    state.take(0.0)
    dense = np.arange(2 * 20_000, dtype=np.float32).reshape(2, 20_000) + 1
    csr = CSR(
        np.array([0, 20_000, 40_000], np.uint32),
        np.tile(np.arange(20_000, dtype=np.uint32), 2),
        dense.ravel(),
        (2, 20_000),
    )
    frames = []
    for window in range(2):
        whole = sae_service_pb2.EncodeResult(
            window_index=window,
            encodings=[sae_service_pb2.SAEEncoding(sae_id="a", sparse=sparse_rows(csr))],
        )
        head, parts = split_message(whole, limit=1 << 15)
        frames += [sae_service_pb2.EncodeStreamResponse(id="0", header=head)]
        frames += [sae_service_pb2.EncodeStreamResponse(id="0", part=part) for part in parts]
    frames[0].served_by.CopyFrom(SERVED_BY)
    frames[-1].last = True
    assert len(frames) > 4
    items = [state.receive(f, 0.0) for f in frames]
    assert items[:-1] == [None] * (len(frames) - 1)
    assert items[-1] is not None
    results = items[-1].results
    assert [r.window_index for r in results] == [0, 1]
    for result in results:
        np.testing.assert_array_equal(result["a"].toarray(), dense)
    with pytest.raises(ValueError, match="2 windows"):
        _ = items[-1].result


@pytest.mark.parametrize("again", ["break", "full"])
def test_what_had_come_of_an_item_that_is_sent_again_is_forgotten(again: str) -> None:
    """One of two windows has arrived when the call breaks, or the item fails."""
    state = new_state()
    put(state, "text")
    assert state.take(0.0) is not None
    first = frame("0", header=header("0"))
    first.last = False
    assert state.receive(first, 0.0) is None
    if again == "break":
        assert state.resume_in(UnavailableError("gone"), 0.0) is not None
    else:
        state.receive(frame("0", status=status_pb2.Status(code=UNAVAILABLE)), 0.0)
    assert state.take(100.0) is not None
    assert state.receive(first, 100.0) is None
    item = state.receive(frame("0", header=header("0")), 100.0)
    assert item is not None
    assert len(item.results) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (frame("7", header=header("7")), "unknown item '7'"),
        (
            sae_service_pb2.EncodeStreamResponse(
                id="0", served_by=SERVED_BY, part=sae_service_pb2.Part(field="x")
            ),
            "part without its header",
        ),
        (
            sae_service_pb2.EncodeStreamResponse(id="0", last=True, header=header("0")),
            "does not say what answered",
        ),
        (
            frame(
                "0",
                header=sae_service_pb2.EncodeResult(
                    encodings=[
                        sae_service_pb2.SAEEncoding(
                            sparse=sparse_rows(
                                CSR(
                                    np.array([0, 2], np.uint32),
                                    np.array([1, 0], np.uint32),
                                    np.ones(2, np.float32),
                                    (1, 4),
                                )
                            )
                        )
                    ]
                ),
            ),
            "ascend",
        ),
    ],
)
def test_a_server_that_breaks_the_protocol_is_an_error_not_a_wrong_result(
    bad: sae_service_pb2.EncodeStreamResponse, message: str
) -> None:
    state = new_state()
    put(state, "text")
    state.take(0.0)
    with pytest.raises(SAEKitError, match=message):
        state.receive(bad, 0.0)


def test_callers_ids_may_repeat_and_come_back() -> None:
    from saekit_client import Input

    state = new_state()
    put(state, Input("a", id="same"), Input("b", id="same"))
    sent = [state.take(0.0), state.take(0.0)]
    assert [m.input.id for m in sent if m] == ["0", "1"]  # type: ignore[attr-defined]
    item = state.receive(frame("1", header=header("1")), 0.0)
    assert item is not None
    assert (item.index, item.id, item.result.id) == (1, "same", "same")
