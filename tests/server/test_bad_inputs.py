"""Requests that cannot be answered: each names its field, and the server goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.models import build_llama
from tests.saes import random_sae, write_sae
from tests.server.bad_inputs.calls import (
    D_MODEL,
    INVALID,
    RESID,
    TEXT,
    Bad,
    Chat,
    Input,
    Query,
    encode,
    run,
    steer,
    stream,
)
from tests.server.bad_inputs.decode import DECODE
from tests.server.bad_inputs.encode import ACTIVATIONS, ENCODE, POSITIONS
from tests.server.bad_inputs.folders import write_bad_folders
from tests.server.bad_inputs.registry import LOAD, REGISTRY
from tests.server.bad_inputs.run import RUN
from tests.server.bad_inputs.steer import STEER
from tests.server.bad_inputs.streams import STREAMS
from tests.serving import Running, serving, wait_until

from saekit.codec import rows_to_csr
from saekit.v1 import input_pb2
from saekit.v1 import registry_service_pb2 as registry
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.sae import SAE
from saekit_server.config import ServeConfig

EVERY = [*ENCODE, *POSITIONS, *ACTIVATIONS, *DECODE, *RUN, *STEER, *LOAD, *REGISTRY, *STREAMS]


@pytest.fixture(scope="module")
def server(llama_server: Running) -> Iterator[Running]:
    root = llama_server.server.config.sae_dir
    assert root is not None
    write_bad_folders(root / "bad")
    llama_server.registry.LoadSAE(registry.LoadSAERequest(source="bad/without_bos"))
    yield llama_server
    llama_server.registry.UnloadSAE(registry.UnloadSAERequest(sae="bad/without_bos"))


def details(error: grpc.RpcError) -> tuple[str, list[str]]:
    """Code and the fields that BadRequest names."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    fields: list[str] = []
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
            assert all(violation.description for violation in bad.field_violations)
    return error.code().name, fields


def answers(server: Running) -> None:
    """The server still does what it is for."""
    result = encode(TEXT)(server).results[0]
    assert rows_to_csr(result.encodings[0].sparse).nnz


def test_the_table_names_each_input_once() -> None:
    names = [bad.name for bad in EVERY]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize("bad", EVERY, ids=lambda bad: bad.name)
def test_a_bad_input_is_refused_by_its_field_and_the_server_goes_on(
    server: Running, bad: Bad
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        bad.call(server)
    assert details(caught.value) == (bad.code, [bad.field]), caught.value.details()
    answers(server)


def test_a_chat_for_a_model_without_a_template_is_refused(tmp_path: Path) -> None:
    model = build_llama(tmp_path / "no-template")
    (model / "chat_template.jinja").unlink()
    sae_dir = write_sae(tmp_path / "saes" / "jumprelu", random_sae(RESID, D_MODEL)).parent
    config = ServeConfig(
        model=str(model), device="cpu", sae_dir=sae_dir, listen="127.0.0.1:0", slots=2, drain_s=0.0
    )
    chat = Chat(messages=[input_pb2.ChatMessage(role="user", content="hi")])
    with serving(config) as server:
        for call, field in (
            (encode(Input(chat=chat)), "inputs[0].chat"),
            (steer(input=Input(chat=chat)), "input.chat"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(server)
            assert details(caught.value) == (INVALID, [field])
            answers(server)


class Breaking(SAE):
    """An SAE with a bug."""

    def prepare(self, *_: object) -> Any:
        raise RuntimeError("the secret of /home/operator")


@pytest.fixture
def broken(server: Running) -> Iterator[str]:
    """A loaded SAE that fails whenever it is used."""
    server.registry.LoadSAE(registry.LoadSAERequest(source="bad/other", sae_id="broken"))
    server.server.parts.registry.get("broken").sae.__class__ = Breaking
    yield "broken"
    server.registry.UnloadSAE(registry.UnloadSAERequest(sae="broken"))


@pytest.mark.parametrize("call", ["Encode", "EncodeStream", "RunWithSAEs", "Steer"])
def test_an_unexpected_exception_is_internal_without_its_text(
    server: Running, broken: str, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    queries = (Query(sae=broken),)
    calls = {
        "Encode": encode(TEXT, saes=queries),
        "EncodeStream": stream(
            "EncodeStream",
            pb.EncodeStreamRequest(options=pb.EncodeOptions(saes=queries)),
            pb.EncodeStreamRequest(input=Input(id="a", text="The cat.")),
        ),
        "RunWithSAEs": run(returns=pb.RunReturns(features=queries)),
        "Steer": steer(watch=[pb.Watch(sae=broken, features=[1])]),
    }
    if call == "EncodeStream":  # its items have a status of their own
        (frame,) = calls[call](server)
        code, text = frame.status.code, str(frame)
        assert code == grpc.StatusCode.INTERNAL.value[0]
    else:
        with pytest.raises(grpc.RpcError) as caught:
            calls[call](server)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        text = str(caught.value)
    assert "secret" not in text
    assert "Breaking" not in text
    assert "the secret of /home/operator" in caplog.text  # it is for the operator
    answers(server)


def test_a_failing_sae_fails_alone_among_those_that_share_its_batch(
    server: Running, broken: str
) -> None:
    good, bad = encode(TEXT), encode(TEXT, saes=(Query(sae=broken),))

    def outcome(call: Callable[[Running], Any]) -> str:
        try:
            call(server)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    release = threading.Event()
    with ThreadPoolExecutor(9) as pool:
        held = pool.submit(server.server.parts.engine.run_on_device, release.wait)
        made = [pool.submit(outcome, call) for call in (good, bad) * 4]
        wait_until(lambda: server.server.parts.engine.figures().queued_jobs == 8)
        release.set()
        held.result()
        assert [future.result() for future in made] == ["OK", "INTERNAL"] * 4
