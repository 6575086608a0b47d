"""Retries, deadlines, errors, credentials: how a single call is made."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from tests.client.conftest import Serve

from saekit.v1 import registry_service_pb2, sae_service_pb2
from saekit.v1.registry_service_pb2_grpc import RegistryServiceServicer
from saekit.v1.sae_service_pb2_grpc import SAEServiceServicer
from saekit_client import (
    TLS,
    AsyncClient,
    Client,
    DeadlineExceededError,
    FieldViolation,
    InvalidArgumentError,
    ResourceExhaustedError,
    RetryPolicy,
    SteerToken,
    Timeouts,
    UnavailableError,
)
from saekit_client.errors import SAEKitError

QUICK = RetryPolicy(attempts=4, initial_s=0.01, max_s=0.02)


class Registry(RegistryServiceServicer):
    """Fails so many times, then answers; remembers when it was called and with what."""

    def __init__(
        self,
        failures: int = 0,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        pushback_ms: int | None = None,
    ) -> None:
        self.failures = failures
        self.code = code
        self.pushback_ms = pushback_ms
        self.times: list[float] = []
        self.metadata: dict[str, Any] = {}

    def _answer(self, context: Any) -> None:
        self.times.append(time.monotonic())
        self.metadata = dict(context.invocation_metadata())
        if len(self.times) <= self.failures:
            if self.pushback_ms is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", str(self.pushback_ms)),))
            context.abort(self.code, "try again")

    def ListSAEs(self, _: Any, context: Any) -> Any:  # noqa: N802
        self._answer(context)
        return registry_service_pb2.ListSAEsResponse()

    def LoadSAE(self, _: Any, context: Any) -> Any:  # noqa: N802
        self._answer(context)
        return registry_service_pb2.LoadSAEResponse()


def test_a_call_that_changes_nothing_is_repeated_on_unavailable(serve: Serve) -> None:
    registry = Registry(failures=3)
    with Client(serve(registry), retry=QUICK) as client:
        assert client.list_saes() == []
    assert len(registry.times) == 4


def test_a_call_is_given_up_after_the_last_try(serve: Serve) -> None:
    registry = Registry(failures=99)
    with Client(serve(registry), retry=QUICK) as client, pytest.raises(UnavailableError):
        client.list_saes()
    assert len(registry.times) == 4


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT]
)
def test_other_codes_are_not_repeated(serve: Serve, code: grpc.StatusCode) -> None:
    registry = Registry(failures=1, code=code)
    with Client(serve(registry), retry=QUICK) as client, pytest.raises(SAEKitError) as caught:
        client.list_saes()
    assert caught.value.code is code
    assert len(registry.times) == 1


def test_loading_is_never_repeated(serve: Serve) -> None:
    registry = Registry(failures=1)
    with Client(serve(registry), retry=QUICK) as client, pytest.raises(UnavailableError):
        client.load_sae("folder")
    assert len(registry.times) == 1


def test_one_attempt_means_no_repeat(serve: Serve) -> None:
    registry = Registry(failures=1)
    retry = RetryPolicy(attempts=1)
    with Client(serve(registry), retry=retry) as client, pytest.raises(UnavailableError):
        client.list_saes()
    assert len(registry.times) == 1


def test_the_servers_pushback_sets_the_pace(serve: Serve) -> None:
    registry = Registry(failures=1, pushback_ms=400)
    with Client(serve(registry), retry=QUICK) as client:
        client.list_saes()
    first, second = registry.times
    assert second - first >= 0.4


def test_the_asynchronous_client_repeats_alike(serve: Serve) -> None:
    registry = Registry(failures=3)

    async def run() -> None:
        async with AsyncClient(serve(registry), retry=QUICK) as client:
            assert await client.list_saes() == []

    asyncio.run(run())
    assert len(registry.times) == 4


@pytest.mark.parametrize("attempts", [0, 6])
def test_a_retry_policy_that_grpc_would_not_keep_is_refused(attempts: int) -> None:
    with pytest.raises(ValueError, match="attempts: expected 1 to 5"):
        RetryPolicy(attempts=attempts)


class Slow(RegistryServiceServicer):
    def ListSAEs(self, _: Any, context: Any) -> Any:  # noqa: N802
        while context.is_active():
            time.sleep(0.01)
        return registry_service_pb2.ListSAEsResponse()


def test_calls_have_a_deadline_by_default(serve: Serve) -> None:
    with (
        Client(serve(Slow()), timeouts=Timeouts(unary=0.2)) as client,
        pytest.raises(DeadlineExceededError),
    ):
        client.list_saes()


def test_a_timeout_goes_before_the_default(serve: Serve) -> None:
    with Client(serve(Slow())) as client, pytest.raises(DeadlineExceededError):
        client.list_saes(timeout=0.2)


def test_nobody_there_is_told_within_the_connect_timeout() -> None:
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"no server answers at localhost:1 within 0\.3 s"):
        Client("localhost:1", timeouts=Timeouts(connect=0.3))
    assert time.monotonic() - began < 5


async def test_nobody_there_is_told_to_the_asynchronous_client() -> None:
    client = AsyncClient("localhost:1", timeouts=Timeouts(connect=0.3))
    with pytest.raises(UnavailableError, match="no server answers at localhost:1"):
        async with client:
            pass


def test_the_bearer_token_goes_with_every_call(serve: Serve) -> None:
    registry = Registry()
    with Client(serve(registry), token="secret") as client:
        client.list_saes()
        assert "secret" not in repr(client.connection)
    assert registry.metadata["authorization"] == "Bearer secret"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, pem = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(pem), "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return key, pem


def test_tls_trusts_the_given_roots_and_no_other(
    serve: Serve, certificate: tuple[Path, Path]
) -> None:
    key, pem = certificate
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), pem.read_bytes())])
    address = serve(Registry(), credentials=credentials)
    with Client(address, tls=TLS(pem)) as client:
        assert client.list_saes() == []
    for tls in (None, TLS()):
        with pytest.raises(UnavailableError):
            Client(address, tls=tls, timeouts=Timeouts(connect=0.5))


class Refusing(SAEServiceServicer):
    def __init__(self, code: grpc.StatusCode, *details: Message) -> None:
        self.status = status_pb2.Status(code=code.value[0], message="inputs[3].tokens: 999 ...")
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            self.status.details.append(packed)

    def Encode(self, _: Any, context: Any) -> Any:  # noqa: N802
        context.abort_with_status(rpc_status.to_status(self.status))

    def Steer(self, _: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        yield sae_service_pb2.SteerResponse(token=sae_service_pb2.SteerToken(text="Once"))
        context.abort_with_status(rpc_status.to_status(self.status))


VIOLATIONS = error_details_pb2.BadRequest(
    field_violations=[{"field": "inputs[3].tokens", "description": "expected below 2048, got 999"}]
)


def test_errors_name_the_refused_field(serve: Serve) -> None:
    server = Refusing(grpc.StatusCode.INVALID_ARGUMENT, VIOLATIONS)
    with Client(serve(server)) as client, pytest.raises(InvalidArgumentError) as caught:
        client.encode("text", "sae")
    error = caught.value
    assert error.field_violations == (
        FieldViolation("inputs[3].tokens", "expected below 2048, got 999"),
    )
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "inputs[3].tokens: expected below 2048, got 999" in str(error)


def test_errors_say_when_to_try_again(serve: Serve) -> None:
    delay = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    server = Refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, delay)
    with Client(serve(server)) as client, pytest.raises(ResourceExhaustedError) as caught:
        client.encode("text", "sae")
    assert caught.value.retry_after == 1.5
    assert caught.value.field_violations == ()


def test_a_generation_that_fails_midway_gives_its_tokens_and_then_the_error(serve: Serve) -> None:
    address = serve(Refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, VIOLATIONS))
    with Client(address) as client:
        events = client.steer("Once")
        token = next(events)
        assert isinstance(token, SteerToken)
        assert token.text == "Once"
        with pytest.raises(ResourceExhaustedError):
            next(events)


async def test_asynchronous_errors_are_the_same(serve: Serve) -> None:
    address = serve(Refusing(grpc.StatusCode.INVALID_ARGUMENT, VIOLATIONS))
    async with AsyncClient(address) as client:
        with pytest.raises(InvalidArgumentError) as caught:
            await client.encode("text", "sae")
        events = client.steer("Once")
        assert isinstance(await anext(events), SteerToken)
        with pytest.raises(InvalidArgumentError):
            await anext(events)
    assert caught.value.field_violations[0].field == "inputs[3].tokens"


IMPORT = """
import sys, time
began = time.perf_counter()
import saekit_client
print(time.perf_counter() - began)
from saekit_client import *
heavy = {"torch", "transformers", "scipy", "matplotlib", "rich", "typer"}
print(*sorted(heavy & set(sys.modules)))
"""


def test_importing_the_client_is_quick_and_all_of_it_brings_nothing_heavy() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        for _ in range(3)
    ]
    assert [heavy for _, heavy in outputs] == [""] * 3
    assert min(float(seconds) for seconds, _ in outputs) < 0.3


def test_every_public_name_is_there() -> None:
    import saekit_client

    for name in saekit_client.__all__:
        assert getattr(saekit_client, name) is not None
    assert sorted(saekit_client.__all__) == sorted(saekit_client._MODULE_OF)
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        _ = saekit_client.Klient
