"""A gRPC server whose answers a test writes itself: what is tested is how the client takes them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from saekit.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)
from saekit.v1.sae_service_pb2_grpc import SAEServiceServicer, add_SAEServiceServicer_to_server

Servicer = SAEServiceServicer | RegistryServiceServicer
Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server of the given servicers; returns its address."""
    servers = []

    def start(*servicers: Servicer, credentials: grpc.ServerCredentials | None = None) -> str:
        server = grpc.server(ThreadPoolExecutor(8))
        for servicer in servicers:
            if isinstance(servicer, SAEServiceServicer):
                add_SAEServiceServicer_to_server(servicer, server)
            else:
                add_RegistryServiceServicer_to_server(servicer, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("localhost:0", credentials)
        server.start()
        servers.append(server)
        return f"localhost:{port}"

    yield start
    for server in servers:
        server.stop(grace=None).wait()


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server: a small Llama-type model and three SAEs.

    `topk` (with recorded maxima, labels, and a page on Neuronpedia), `normed` (whose Decode needs
    the state of its Encode) and `heads` (at attention heads).
    """
    from tests.models import build_llama
    from tests.saes import random_sae
    from tests.serving import serving

    from saekit_core.sae import FeaturesFile, Snippet, write_sae_folder
    from saekit_server.config import ServeConfig

    root = tmp_path_factory.mktemp("served")
    hook = "blocks.2.hook_resid_pre"
    known = FeaturesFile(
        density=np.full(96, 0.1, np.float32),
        max_activation=np.full(96, 2.0, np.float32),
        labels={3: "dragons", 5: "small dragons"},
        examples={3: (Snippet(("a", " dragon"), (0.0, 2.0), 1),)},
    )
    sae = random_sae("blocks.1.hook_resid_pre", 32, "topk", seed=1, neuronpedia_id="tiny/1-res-tst")
    write_sae_folder(sae, root / "saes" / "topk", features=known)
    normed = random_sae(hook, 32, "jumprelu", normalization="layer_norm", seed=2)
    write_sae_folder(normed, root / "saes" / "normed")
    heads = random_sae("blocks.1.attn.hook_z", 32, "standard", seed=3, reshape_activations="hook_z")
    write_sae_folder(heads, root / "saes" / "heads")
    write_sae_folder(sae, root / "saes" / ".spare" / "extra")
    config = ServeConfig(
        model=str(build_llama(root / "tiny-llama")),
        device="cpu",
        sae_dir=root / "saes",
        listen="127.0.0.1:0",
        threads=1,
        drain_s=0.0,
    )
    with serving(config) as running:
        yield running.address
