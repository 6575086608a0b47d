"""What is shipped holds what it needs, and the scripts that the Dockerfile runs do their work."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from tests.models import build_llama
from tests.serving import serving

from saekit_server.cli import parse
from saekit_server.config import ServeConfig

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_holds_every_package_and_the_embedded_model(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("saekit_core", "saekit_server", "saekit_client", "saekit_trainer", "saekit"):
        assert f"{package}/py.typed" in names
    assert "saekit/v1/sae_service.proto" in names
    assert "saekit/v1/sae_service_pb2.py" in names
    assets = "saekit_core/assets/tinystories-1m"
    assert f"{assets}/model.safetensors" in names
    assert f"{assets}/saes/blocks.1.hook_mlp_out/sae_weights.safetensors" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(entry_points).decode()
    assert "saekit = saekit_client.cli:main" in text
    assert "[saekit.commands]" in text
    assert "upload = saekit_core.commands.upload:upload" in text
    assert "saekit_core/directory/releases.json" in names


def test_the_client_alone_needs_no_torch_and_starts_at_once(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        f"import sys, time; sys.path.insert(0, {str(tmp_path)!r}); began = time.process_time(); "
        "import saekit_client; spent = time.process_time() - began; "
        "assert saekit_client.__file__.startswith(sys.path[0]); "
        "assert not {'torch', 'transformers'} & set(sys.modules); print(spent)"
    )
    runs = [
        float(
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout
        )
        for _ in range(3)
    ]
    assert min(runs) < 0.3


def test_the_client_alone_searches_the_directory(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "sys.modules |= dict.fromkeys(('torch', 'safetensors', 'huggingface_hub')); "
        "from saekit_client.cli import main; "
        "assert main(['saes', 'search', 'gpt2-small', 'layer', '8', '--json']) == 0; "
        "assert sys.modules['saekit_core'].__file__.startswith(sys.path[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert b"gpt2-small-res-jb/blocks.8.hook_resid_pre" in done.stdout


def test_embedded_assets_stay_small() -> None:
    files = (ROOT / "core/saekit_core/assets").rglob("*")
    assert sum(file.stat().st_size for file in files if file.is_file()) <= 12_000_000


def healthcheck(address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/healthcheck"), address]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_healthcheck_says_whether_a_server_serves(tmp_path: Path) -> None:
    config = ServeConfig(
        model=str(build_llama(tmp_path / "m")), device="cpu", listen="127.0.0.1:0", drain_s=0.0
    )
    with serving(config) as running:
        address = running.address
        assert healthcheck(address).returncode == 0
    gone = healthcheck(address)
    assert gone.returncode != 0
    assert "UNAVAILABLE" in gone.stderr


@pytest.mark.parametrize("script", ["protos", "install-server"])
def test_shell_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / script)], check=True)


def docker_flags() -> list[str]:
    text = (ROOT / "Dockerfile").read_text()
    for script in re.findall(r"scripts/[\w-]+", text):
        assert (ROOT / script).is_file()
    (line,) = re.findall(r"ENTRYPOINT \[(.*)\]", text)
    words = re.findall(r'"([^"]*)"', line)
    assert words[:2] == ["saekit", "serve"]
    return words[2:]


def test_the_image_starts_the_server_with_flags_that_it_knows() -> None:
    config = parse(docker_flags())
    assert config.listen.endswith(":50051")


def test_the_kubernetes_example_gives_flags_that_the_server_knows() -> None:
    _, deployment = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    config = parse([*docker_flags(), *pod["containers"][0]["args"]])
    assert config.drain_s + config.grace_s < pod["terminationGracePeriodSeconds"]


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
