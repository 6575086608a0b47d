"""What tests of SAEs share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.core.sae.hub_server import Hub, serving_hub, use_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty stand-in of the Hub, as what huggingface_hub reads from its environment names it."""
    with serving_hub() as hub:
        use_hub(hub, tmp_path / "hf", monkeypatch)
        yield hub
