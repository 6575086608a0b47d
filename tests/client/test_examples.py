"""The scripts of `examples/`, run as a reader would run them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from tests.models import story

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str) -> str:
    """What the example printed."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_remote_features(address: str) -> None:
    arguments = ["--address", address, "--sae", "topk", "--features", "3", "5"]
    lines = run("remote_features.py", "the cat sat", "", "a mat", *arguments).splitlines()
    assert lines[0].startswith("features of topk@")
    assert [("#3" in line, "refused" in line) for line in lines[1:]] == [
        (True, False),
        (False, True),
        (True, False),
    ]


def test_encode_corpus(address: str, tmp_path: Path) -> None:
    lines = [story(8, n) for n in range(60)]
    lines[20] = ""
    (tmp_path / "corpus.txt").write_text("\n".join(lines))
    out = tmp_path / "features.npz"
    arguments = [str(tmp_path / "corpus.txt"), "--address", address, "--sae", "topk"]
    shown = run("encode_corpus.py", *arguments, "--out", str(out))
    assert "59 texts encoded with topk@" in shown
    assert "1 refused" in shown
    assert "line 21:" in shown
    with np.load(out) as arrays:
        assert tuple(arrays["shape"]) == (59, 96)
        assert 20 not in arrays["lines"]


def test_steer_and_plot(address: str, tmp_path: Path) -> None:
    out = tmp_path / "steering.png"
    arguments = ["The cat", "--address", address, "--sae", "topk", "--feature", "3"]
    shown = run("steer_and_plot.py", *arguments, "--watch", "5", "7", "--out", str(out))
    assert "steered: " in shown
    assert "baseline:" in shown
    assert out.read_bytes().startswith(b"\x89PNG")
