"""What an operator relies on: health, metrics, limits, deadlines, start and shutdown."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families
from tests.models import build_llama, story
from tests.saes import random_sae, write_sae
from tests.serving import Running, serving, wait_until

from saekit.v1 import input_pb2, sae_service_pb2_grpc
from saekit.v1 import registry_service_pb2 as registry
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.lm.boot import boot_model
from saekit_server.cli import parse, serve
from saekit_server.config import ServeConfig
from saekit_server.engine.call import Call
from saekit_server.engine.engine import Engine
from saekit_server.engine.runner import Runner
from saekit_server.engine.work import ForwardWork
from saekit_server.metrics import Metrics
from saekit_server.scheduler import Kind, Limits, Priority, Scheduler

SLOTS, QUEUE = 2, 4
HOOK = "blocks.1.hook_resid_pre"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model and one SAE of it."""
    tmp = tmp_path_factory.mktemp("operations")
    build_llama(tmp / "model", n_layers=2)
    write_sae(tmp / "saes" / "one", random_sae(HOOK, 32))
    return tmp


@pytest.fixture(scope="module")
def small(folders: Path) -> Iterator[Running]:
    """A server of few slots and a short queue."""
    config = ServeConfig(
        model=str(folders / "model"),
        device="cpu",
        sae_dir=folders / "saes",
        listen="127.0.0.1:0",
        http="127.0.0.1:0",
        slots=SLOTS,
        max_queued_requests=QUEUE,
        drain_s=0.0,
    )
    with serving(config) as running:
        yield running


def steer_request(tokens: int = 90, **settings: Any) -> pb.SteerRequest:
    return pb.SteerRequest(
        input=input_pb2.Input(text="The cat"),
        max_new_tokens=tokens,
        ignore_eos=True,
        sampling=pb.Sampling(temperature=0),
        **settings,
    )


def encode_request(text: str = "The cat sat.", sae: str = "one") -> pb.EncodeRequest:
    options = pb.EncodeOptions(saes=[pb.SAEQuery(sae=sae)])
    return pb.EncodeRequest(inputs=[input_pb2.Input(text=text)], options=options)


@contextmanager
def held(server: Running) -> Iterator[None]:
    """The device is busy with something else."""
    release = threading.Event()
    began = threading.Event()

    def hold() -> None:
        began.set()
        release.wait(30)

    holder = threading.Thread(target=server.server.parts.engine.run_on_device, args=(hold,))
    holder.start()
    began.wait()
    try:
        yield
    finally:
        release.set()
        holder.join()


def in_thread(function: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future


def handled(server: Running, method: str, code: str) -> float:
    value = server.server.metrics.registry.get_sample_value(
        "grpc_server_handled_total",
        {"grpc_service": "saekit.v1.SAEService", "grpc_method": method, "grpc_code": code},
    )
    return value or 0.0


# ---- health and reflection

_PROBE = """
import sys, time, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    health = health_pb2_grpc.HealthStub(channel)
    for i in range(int(sys.argv[2]) + 1):
        began = time.perf_counter()
        reply = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        if i:  # the first opens the connection
            print(time.perf_counter() - began, flush=True)
        time.sleep(0.005)
"""


def test_health_answers_within_50_ms_while_8_steers_run(llama_server: Running) -> None:
    stop = threading.Event()

    def steer() -> int:
        tokens = 0
        while not stop.is_set():
            for event in llama_server.sae.Steer(steer_request(80)):
                tokens += event.HasField("token")
        return tokens

    with ThreadPoolExecutor(8) as pool:
        steers = [pool.submit(steer) for _ in range(8)]
        try:
            wait_until(lambda: llama_server.server.parts.engine.figures().slots_used >= 6)
            probe = [sys.executable, "-c", _PROBE, llama_server.address, "100"]
            printed = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=True)
        finally:
            stop.set()
        assert sum(steer.result() for steer in steers) > 8 * 80
    seconds = sorted(float(line) for line in printed.stdout.split())
    assert len(seconds) == 100
    # 50 ms is promised for a machine that has the cores; these tests may share one with their own
    # clients and with other tests, so the tail has room for a few time slices of the system.
    assert statistics.median(seconds) < 0.05
    assert seconds[90] < 0.25
    assert seconds[-1] < 2.0


def test_reflection_lists_the_services(small: Running) -> None:
    services = set(ProtoReflectionDescriptorDatabase(small.channel).get_services())
    assert services == {
        "saekit.v1.SAEService",
        "saekit.v1.RegistryService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_health_knows_the_services_by_name(small: Running) -> None:
    health = health_pb2_grpc.HealthStub(small.channel)
    for service in ("", "saekit.v1.SAEService", "saekit.v1.RegistryService"):
        reply = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


# ---- HTTP

_METRICS = {
    "grpc_server_handled": {"grpc_service", "grpc_method", "grpc_code"},
    "saekit_request_duration_seconds": {"grpc_service", "grpc_method"},
    "saekit_queue_wait_seconds": {"kind"},
    "saekit_batch_tokens": {"kind"},
    "saekit_padded_tokens": set(),
    "saekit_batch_rows": {"kind"},
    "saekit_queued_requests": {"kind"},
    "saekit_queued_tokens": {"kind"},
    "saekit_steer_rows": set(),
    "saekit_time_to_first_token_seconds": set(),
    "saekit_inter_token_seconds": set(),
    "saekit_input_tokens": {"kind"},
    "saekit_generated_tokens": set(),
    "saekit_sae_encoded_tokens": {"sae"},
    "saekit_sae_l0": {"sae"},
    "saekit_registry_saes": set(),
    "saekit_registry_bytes": set(),
    "saekit_sae_loads": {"outcome"},
    "saekit_sae_evictions": set(),
    "saekit_out_of_memory_retries": set(),
    "saekit_device_memory_bytes": set(),
    "saekit_rejections": {"reason"},
    "saekit_build_info": {"model", "revision", "device"},
}


def get(server: Running, path: str) -> tuple[int, str]:
    url = f"http://{server.server.http_address}{path}"
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(server: Running) -> dict[str, Any]:
    status, text = get(server, "/metrics")
    assert status == 200
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_a_scrape_holds_every_metric_and_no_label_that_a_client_chooses(small: Running) -> None:
    small.sae.Encode(encode_request())
    list(small.sae.Steer(steer_request(4)))
    secret = "chosen-by-the-client"
    for request in (
        encode_request(sae=secret),
        pb.EncodeRequest(options=pb.EncodeOptions(model=secret)),
    ):
        with pytest.raises(grpc.RpcError):
            small.sae.Encode(request)
    with pytest.raises(grpc.RpcError):
        small.channel.unary_unary(f"/saekit.v1.SAEService/{secret}")(b"")
    wait_until(lambda: small.server.parts.engine.idle)
    families = scrape(small)
    assert _METRICS.keys() <= families.keys()
    for name, labels in _METRICS.items():
        for sample in families[name].samples:
            assert sample.labels.keys() - {"le"} == labels, name
    assert secret not in get(small, "/metrics")[1]
    (rows,) = families["saekit_steer_rows"].samples
    assert rows.value == 0
    assert {s.labels["sae"] for s in families["saekit_sae_encoded_tokens"].samples} == {"one"}
    assert families["saekit_device_memory_bytes"].samples[0].value > 1 << 20


def test_a_scrape_shows_what_waits_and_runs_at_that_moment(small: Running) -> None:
    def value(name: str, **labels: str) -> float:
        return next(s.value for s in scrape(small)[name].samples if s.labels == labels)

    with held(small):
        waiting = [in_thread(lambda: small.sae.Encode(encode_request())) for _ in range(3)]
        wait_until(lambda: small.server.parts.engine.figures().queued_jobs == 3)
        assert value("saekit_queued_requests", kind="forward") == 3
        assert value("saekit_queued_tokens", kind="forward") > 3
    for future in waiting:
        future.result()
    assert value("saekit_queued_requests", kind="forward") == 0


def test_probes_over_http(small: Running) -> None:
    assert get(small, "/healthz") == (200, "ok\n")
    assert get(small, "/readyz") == (200, "ready\n")
    assert get(small, "/nothing")[0] == 404


# ---- limits


def test_a_full_queue_is_unavailable_with_a_time_to_come_back(small: Running) -> None:
    with held(small):
        waiting = [in_thread(lambda: small.sae.Encode(encode_request())) for _ in range(QUEUE)]
        wait_until(lambda: small.server.parts.engine.figures().queued_jobs == QUEUE)
        with pytest.raises(grpc.RpcError) as caught:
            small.sae.Encode(encode_request())
    error = caught.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    (detail,) = rpc_status.from_call(error).details
    retry = error_details_pb2.RetryInfo()
    assert detail.Unpack(retry)
    delay_ms = retry.retry_delay.ToMilliseconds()
    assert delay_ms > 0
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == str(delay_ms)
    for future in waiting:  # those that were admitted are answered
        assert len(future.result().results) == 1


def test_a_full_queue_refuses_before_it_reads_the_texts(small: Running) -> None:
    unreadable = encode_request()
    unreadable.inputs[0].text = "word " * 5000  # longer than the model's context
    with pytest.raises(grpc.RpcError) as caught:
        small.sae.Encode(unreadable)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with held(small):
        waiting = [in_thread(lambda: small.sae.Encode(encode_request())) for _ in range(QUEUE)]
        wait_until(lambda: small.server.parts.engine.figures().queued_jobs == QUEUE)
        with pytest.raises(grpc.RpcError) as caught:
            small.sae.Encode(unreadable)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    for future in waiting:
        future.result()


def test_no_more_texts_are_read_at_once_than_the_queue_has_room_for(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = small.server.parts.model.tokenizer
    read, go_on, encode = [], threading.Event(), tokenizer.encode_text

    def slowly(text: str, *args: Any) -> Any:
        read.append(text)
        go_on.wait(30)
        return encode(text, *args)

    monkeypatch.setattr(tokenizer, "encode_text", slowly)
    # Longer than what is read on the event loop.
    long = encode_request("The cat sat. " * 200)
    long.options.over_length = input_pb2.OVER_LENGTH_TRUNCATE
    waiting = [in_thread(lambda: small.sae.Encode(long)) for _ in range(QUEUE)]
    wait_until(lambda: len(read) == QUEUE)
    with pytest.raises(grpc.RpcError) as caught:
        small.sae.Encode(encode_request())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    go_on.set()
    for future in waiting:
        assert len(future.result().results) == 1
    assert len(read) == QUEUE


def test_room_for_requests_that_turn_out_to_be_wrong_is_free_again(small: Running) -> None:
    wrong = encode_request()
    wrong.inputs.extend([input_pb2.Input(text="")] * (QUEUE - 1))
    steer = steer_request(n=99)
    decode = pb.DecodeRequest(
        options=pb.DecodeOptions(), items=[pb.DecodeItem(sae="no such one")] * QUEUE
    )
    run = pb.RunWithSAEsRequest(
        options=pb.RunOptions(returns=pb.RunReturns(loss=True)),
        inputs=[input_pb2.Input(text="")] * QUEUE,
    )
    for _ in range(3):
        for call in (
            lambda: small.sae.Encode(wrong),
            lambda: list(small.sae.Steer(steer)),
            lambda: small.sae.Decode(decode),
            lambda: small.sae.RunWithSAEs(run),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is not grpc.StatusCode.UNAVAILABLE
    full = encode_request()
    full.inputs.extend([full.inputs[0]] * (QUEUE - 1))
    assert len(small.sae.Encode(full).results) == QUEUE


def test_a_request_of_more_inputs_than_the_queue_holds_names_its_inputs(small: Running) -> None:
    request = encode_request()
    request.inputs.extend([input_pb2.Input(text="a")] * QUEUE)
    with pytest.raises(grpc.RpcError) as caught:
        small.sae.Encode(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith("inputs: ")


def test_a_stream_of_more_inputs_than_the_queue_holds_is_slowed_not_refused(
    small: Running,
) -> None:
    options = pb.EncodeOptions(saes=[pb.SAEQuery(sae="one")])

    def requests() -> Iterator[pb.EncodeStreamRequest]:
        yield pb.EncodeStreamRequest(options=options)
        for i in range(10 * QUEUE):
            yield pb.EncodeStreamRequest(input=input_pb2.Input(id=str(i), text=story(4, i)))

    frames = list(small.sae.EncodeStream(requests()))
    assert {frame.WhichOneof("payload") for frame in frames} == {"header"}
    assert len(frames) == 10 * QUEUE


def test_a_deadline_passes_by_timer_while_a_steer_waits_for_a_slot(small: Running) -> None:
    engine = small.server.parts.engine
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            list(small.sae.Steer(steer_request(90, n=SLOTS)))

    busy = in_thread(keep_busy)
    try:
        wait_until(lambda: engine.figures().slots_used == SLOTS)
        with held(small):  # so that no slot comes free in time
            began = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                list(small.sae.Steer(steer_request(), timeout=0.3))
            waited = time.monotonic() - began
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert 0.25 < waited < 2.0
            # Its place in the queue is free although the device has not moved.
            wait_until(lambda: engine.figures().queued[Kind.STEER].jobs == 0, 2.0)
    finally:
        stop.set()
    busy.result()
    wait_until(lambda: engine.idle)
    engine.check_integrity()


def test_a_client_that_hangs_up_in_mid_steer_frees_its_slots_within_one_step(
    small: Running,
) -> None:
    engine = small.server.parts.engine
    stream = small.sae.Steer(steer_request(90, n=SLOTS))
    for _ in range(6):
        next(stream)
    # The very generations, which the next request's caller could not tell from its own.
    generations = [t.generation for t in engine._desk._tickets.values()]
    assert len(generations) == SLOTS
    cancelled = handled(small, "Steer", "CANCELLED")
    with held(small):
        stream.cancel()
        wait_until(lambda: handled(small, "Steer", "CANCELLED") == cancelled + 1)
        lengths = [len(generation.generated) for generation in generations]
        assert max(lengths) < 90
    wait_until(lambda: engine.figures().slots_used == 0)
    # The step that was planned already, and no other.
    for generation, length in zip(generations, lengths, strict=True):
        assert len(generation.generated) <= length + 1
    engine.check_integrity()


async def test_a_rest_is_no_standstill(folders: Path) -> None:
    """Work that comes after hours of quiet must not look as if the device had hung for hours."""
    now = 0.0
    model = boot_model(folders / "model", device="cpu")
    metrics = Metrics()
    scheduler = Scheduler(Limits(), lambda: now)
    engine = Engine(model, scheduler, Runner(model, None, metrics), metrics, lambda: now)
    now = 7200.0
    assert engine.stalled_s() == 0.0
    work = ForwardWork(model.tokenizer.encode_text("The cat."), ())
    task = asyncio.create_task(engine.run([work], Call("someone"), Priority.INTERACTIVE))
    await asyncio.sleep(0)
    assert not engine.idle
    assert engine.stalled_s() == 0.0
    now += 61.0
    assert engine.stalled_s() == 61.0
    task.cancel()


# ---- the command


@dataclass
class Command:
    """`saekit serve` as a process of its own."""

    process: subprocess.Popen[str]
    printed: list[str]

    @property
    def output(self) -> str:
        return "".join(self.printed)

    @property
    def address(self) -> str:
        found = re.search(r"saekit: serving on (\S+)", self.output)
        assert found, self.output
        return found[1]

    def wait(self, timeout_s: float) -> int:
        code = self.process.wait(timeout_s)
        time.sleep(0.05)  # the reader's last lines
        return code


@contextmanager
def command(*arguments: str) -> Iterator[Command]:
    process = subprocess.Popen(
        [Path(sys.executable).with_name("saekit"), "serve", "--device", "cpu", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    made = Command(process, [])
    assert process.stdout is not None
    stdout = process.stdout
    reader = threading.Thread(target=lambda: made.printed.extend(iter(stdout.readline, "")))
    reader.start()
    try:
        yield made
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        stdout.close()


def serving_line(made: Command) -> None:
    wait_until(lambda: "saekit: serving on" in made.output or made.process.poll() is not None, 60)
    assert made.process.poll() is None, made.output


def test_sigterm_drains_finishes_what_runs_and_exits_0(folders: Path) -> None:
    model, saes = str(folders / "model"), str(folders / "saes")
    with command(
        "--model", model, "--sae-dir", saes, "--listen", "127.0.0.1:0", "--slots", "2",
        "--http", "127.0.0.1:0", "--drain", "0.5", "--grace", "60",
    ) as made:  # fmt: skip
        serving_line(made)
        assert "model weights" in made.output
        assert "1 SAEs: one" in made.output
        assert re.search(r"saekit: metrics on http://127.0.0.1:\d+/metrics", made.output)
        with grpc.insecure_channel(made.address) as channel:
            sae = sae_service_pb2_grpc.SAEServiceStub(channel)
            watch = channel.unary_stream(
                "/saekit.v1.RegistryService/WatchSAEs",
                request_serializer=registry.WatchSAEsRequest.SerializeToString,
                response_deserializer=registry.WatchSAEsResponse.FromString,
            )(registry.WatchSAEsRequest())
            assert next(watch).sae.sae_id == "one"
            stream = sae.Steer(steer_request(90))
            events = [next(stream), next(stream)]
            made.process.send_signal(signal.SIGTERM)
            events += stream
            assert sum(event.HasField("token") for event in events) == 90
            assert events[-1].finish.reason == pb.FINISH_REASON_LENGTH
            # A watch has no end of its own; it must not hold the server up.
            with pytest.raises(grpc.RpcError) as caught:
                list(watch)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert made.wait(20) == 0, made.output
        assert "Traceback" not in made.output


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("memory", ["--memory-fraction", "0.0000001"], r"weights \([\d.]+ MiB\).*slots.*budget"),
        ("unknown model", ["--model", "no/such-model"], "no/such-model"),
        ("unknown folder", ["--model", "/no/such/folder"], "/no/such/folder"),
        ("unknown SAE", ["--sae", "x=file:no/such"], "no/such"),
        ("bad address", ["--listen", "nowhere"], "expected HOST:PORT"),
        ("taken port", ["--listen", "TAKEN"], "TAKEN"),
        ("taken http port", ["--http", "TAKEN"], "TAKEN"),
    ],
)
def test_a_start_that_cannot_succeed_says_why_and_exits_1(
    folders: Path, name: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        given = ["--device", "cpu", "--model", str(folders / "model"), "--listen", "127.0.0.1:0"]
        given += ["--sae-dir", str(folders / "saes")]
        given += [address if argument == "TAKEN" else argument for argument in arguments]
        assert serve(given) == 1, name
    printed = capsys.readouterr()
    assert "serving on" not in printed.out
    told = " ".join(printed.err.split())  # wrapped to the width of the terminal
    assert re.search(said.replace("TAKEN", re.escape(address)), told), told


@pytest.mark.parametrize(
    "arguments",
    [
        ["--slots", "0"],
        ["--watch"],
        ["--max-queued-requests", "0"],
        ["--memory-fraction", "2"],
        ["--memory-fraction", "nan"],
        ["--drain", "-1"],
        ["--grace", "inf"],
    ],
)
def test_settings_that_make_no_sense_are_refused_with_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
