"""SAEs that change while they are in use: pins, watched folders, the manifest."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from tests.models import build_llama
from tests.registries import fingerprinted, truncate
from tests.saes import write_sae
from tests.serving import Running, serving, wait_until

from saekit.codec import numpy_to_tensor, tensor_to_numpy
from saekit.v1 import input_pb2
from saekit.v1 import registry_service_pb2 as registry
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.sae import SAE
from saekit_core.sae.revision import folder_revision
from saekit_server.config import ServeConfig

D_MODEL, D_SAE = 32, 96
X = np.linspace(-2, 2, 4 * D_MODEL, dtype=np.float32).reshape(4, D_MODEL)
Event = registry.WatchSAEsResponse


def encoded(sae: SAE) -> np.ndarray:
    """What it makes of X."""
    with torch.no_grad():
        return sae.encode(torch.from_numpy(X)).numpy()


def encode(server: Running, name: str) -> tuple[str, np.ndarray]:
    """The revision that answered, and its answer."""
    request = pb.EncodeRequest(
        inputs=[input_pb2.Input(activations=numpy_to_tensor(X))],
        options=pb.EncodeOptions(saes=[pb.SAEQuery(sae=name, dense=True)]),
    )
    (encoding,) = server.sae.Encode(request).results[0].encodings
    return encoding.sae_revision, tensor_to_numpy(encoding.dense)


def decode_nothing(server: Running, name: str) -> tuple[str, float]:
    """The revision that answered, and its fingerprint: b_dec is all that is left of no features."""
    item = pb.DecodeItem(sae=name, dense=numpy_to_tensor(np.zeros((1, D_SAE), np.float32)))
    (result,) = server.sae.Decode(pb.DecodeRequest(items=[item])).results
    return result.sae_revision, float(tensor_to_numpy(result.activations)[0, -1])


def status_of(server: Running, name: str) -> str:
    try:
        encode(server, name)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


class Readers:
    """Asks for revisions, old and new, for as long as it runs, and checks every answer."""

    def __init__(self, server: Running) -> None:
        self.known: dict[str, tuple[int, np.ndarray]] = {}
        self.order: list[str] = []
        self.seen: Counter[str] = Counter()
        self._server = server
        self._stop = threading.Event()

    def publish(self, revision: str, seed: int, sae: SAE) -> None:
        self.known[revision] = seed, encoded(sae)
        self.order.append(revision)

    def run(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self._stop.is_set():
            pin = rng.choice(["", rng.choice(self.order), self.order[-1], self.order[-1]])
            try:
                revision, answer = rng.choice([encode, decode_nothing])(
                    self._server, f"victim@{pin}" if pin else "victim"
                )
            except grpc.RpcError as error:
                if not pin or error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                    raise
                self.seen["refused"] += 1
                continue
            assert pin in ("", revision), f"{pin} was answered by {revision}"
            fingerprint, acts = self.known[revision]
            if isinstance(answer, float):
                assert answer == fingerprint
            else:
                np.testing.assert_allclose(answer, acts, rtol=1e-4, atol=1e-5)
            self.seen["pinned" if pin else "unpinned"] += 1

    @contextmanager
    def running(self, n: int) -> Iterator[None]:
        with ThreadPoolExecutor(n) as pool:
            made = [pool.submit(self.run, seed) for seed in range(n)]
            try:
                yield
            finally:
                self._stop.set()
            for future in made:
                future.result()


def test_a_pinned_request_is_answered_by_its_revision_or_refused_through_100_replacements(
    llama_server: Running,
) -> None:
    root = llama_server.server.config.sae_dir
    assert root is not None
    readers = Readers(llama_server)

    def replace(seed: int) -> str:
        sae = fingerprinted(seed)
        folder = write_sae(root / "victim", sae)
        # Known before it serves, so that readers can check it at once.
        revision = folder_revision(folder)
        readers.publish(revision, seed, sae)
        made = llama_server.registry.LoadSAE(registry.LoadSAERequest(source="victim", replace=True))
        assert made.sae.revision == revision
        return made.replaced_revision

    assert replace(0) == ""
    with readers.running(3):
        for seed in range(1, 101):
            assert replace(seed) == readers.order[-2]
    assert len(readers.known) == 101
    assert min(readers.seen[kind] for kind in ("pinned", "unpinned", "refused")) >= 20, readers.seen
    llama_server.registry.UnloadSAE(registry.UnloadSAERequest(sae="victim"))


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that follows its folder and a manifest, both empty."""
    tmp = tmp_path_factory.mktemp("watching")
    (tmp / "saes").mkdir()
    (tmp / "manifest.toml").write_text("")
    config = ServeConfig(
        model=str(build_llama(tmp / "tiny-llama", n_layers=2)),
        device="cpu",
        sae_dir=tmp / "saes",
        watch=True,
        watch_interval_s=0.05,
        manifest=tmp / "manifest.toml",
        listen="127.0.0.1:0",
        slots=2,
        drain_s=0.0,
    )
    with serving(config) as running:
        yield running


class Watcher:
    """The events that WatchSAEs tells of SAEs below a prefix."""

    def __init__(self, server: Running, prefix: str) -> None:
        self.events: list[registry.WatchSAEsResponse] = []
        self._stream = server.registry.WatchSAEs(registry.WatchSAEsRequest(prefix=prefix))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: Event.EVENT_SYNCED in self.kinds)

    def _read(self) -> None:
        try:
            for event in self._stream:
                self.events.append(event)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise

    @property
    def kinds(self) -> list[int]:
        return [event.event for event in self.events]

    def wait_for(self, *kinds: int) -> registry.WatchSAEsResponse:
        """The last event, once these and no others have come since the last call."""
        expected = [Event.EVENT_SYNCED, *kinds]
        wait_until(lambda: len(self.events) >= len(expected))
        assert self.kinds == expected
        del self.events[1:-1]
        return self.events.pop()

    def close(self) -> None:
        self._stream.cancel()
        self._thread.join()


@contextmanager
def watch(server: Running, prefix: str) -> Iterator[Watcher]:
    watcher = Watcher(server, prefix)
    try:
        yield watcher
    finally:
        watcher.close()


def test_a_watched_folder_is_loaded_replaced_refused_when_bad_and_unloaded(
    watching: Running, tmp_path: Path
) -> None:
    root = watching.server.config.sae_dir
    assert root is not None
    folder = root / "hot" / "sae"
    with watch(watching, "hot/") as events:
        assert status_of(watching, "hot/sae") == "NOT_FOUND"

        write_sae(folder, fingerprinted(1))
        loaded = events.wait_for(Event.EVENT_LOADED)
        assert loaded.sae.sae_id == "hot/sae"
        assert decode_nothing(watching, "hot/sae") == (loaded.sae.revision, 1.0)

        write_sae(folder, fingerprinted(2))
        replaced = events.wait_for(Event.EVENT_REPLACED)
        assert decode_nothing(watching, "hot/sae") == (replaced.sae.revision, 2.0)
        assert status_of(watching, f"hot/sae@{loaded.sae.revision}") == "FAILED_PRECONDITION"

        truncate(folder / "sae_weights.safetensors")  # in place, under the server's feet
        failed = events.wait_for(Event.EVENT_FAILED)
        assert failed.sae.sae_id == "hot/sae"
        assert "sae_weights.safetensors" in failed.error
        assert str(root) not in failed.error, "a path of the server's disk"
        assert decode_nothing(watching, "hot/sae") == (replaced.sae.revision, 2.0)

        write_sae(folder, fingerprinted(3))
        mended = events.wait_for(Event.EVENT_REPLACED)
        assert decode_nothing(watching, "hot/sae") == (mended.sae.revision, 3.0)

        os.rename(folder, tmp_path / "gone")
        gone = events.wait_for(Event.EVENT_UNLOADED)
        assert gone.sae.revision == mended.sae.revision
        assert status_of(watching, "hot/sae") == "NOT_FOUND"


def test_a_watch_begins_with_what_is_loaded(watching: Running) -> None:
    root = watching.server.config.sae_dir
    assert root is not None
    write_sae(root / "present", fingerprinted(7))
    wait_until(lambda: status_of(watching, "present") == "OK")
    stream = watching.registry.WatchSAEs(registry.WatchSAEsRequest(prefix="present"))
    first, second = next(stream), next(stream)
    stream.cancel()
    assert (first.event, second.event) == (Event.EVENT_PRESENT, Event.EVENT_SYNCED)
    assert first.sae == watching.registry.GetSAE(registry.GetSAERequest(sae="present")).sae


def test_the_server_converges_to_its_manifest(watching: Running) -> None:
    root, manifest = watching.server.config.sae_dir, watching.server.config.manifest
    assert root is not None
    assert manifest is not None
    folder = write_sae(root / ".store" / "a", fingerprinted(11))  # not watched: a dot-name
    other = write_sae(root / ".store" / "b", fingerprinted(12))

    def entry(name: str, spec: Path, *more: str) -> str:
        return "\n".join([f'[sae."{name}"]', f'spec = "file:{spec}"', *more, ""])

    with watch(watching, "fleet/") as events:
        manifest.write_text(entry("fleet/a", folder, "pin = true", 'labels = { team = "red" }'))
        info = events.wait_for(Event.EVENT_LOADED).sae
        assert (info.sae_id, info.pinned, dict(info.labels)) == ("fleet/a", True, {"team": "red"})
        assert decode_nothing(watching, "fleet/a") == (info.revision, 11.0)

        manifest.write_text(
            entry("fleet/a", folder) + entry("fleet/b", other, 'revision = "0123456789ab"')
        )
        wait_until(lambda: Event.EVENT_FAILED in events.kinds)  # not that revision
        assert status_of(watching, "fleet/b") == "NOT_FOUND"

        manifest.write_text("[sae")  # no TOML: the last good one stays in force
        wait_until(lambda: status_of(watching, "fleet/a") == "OK")

        manifest.write_text(entry("fleet/b", other, f'revision = "{folder_revision(other)}"'))
        wait_until(lambda: status_of(watching, "fleet/b") == "OK")
        wait_until(lambda: status_of(watching, "fleet/a") == "NOT_FOUND")
        assert decode_nothing(watching, "fleet/b")[1] == 12.0
