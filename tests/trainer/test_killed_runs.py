"""Runs that are killed at random moments and gone on with: every byte is that of an unbroken run.

`make faults` does it to processes from their start, to more kinds of runs, and more often.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.scenarios import SCENARIOS, build_model, outcome

KILLED = ("several-text",)
KILLS = 4
STEPS = 120

# One process loads everything, and forks those that are killed.
CHILD = """
import json, os, random, signal, sys, time, warnings
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.faults.scenarios import flags
from saekit_core.lm.boot import boot_model
from saekit_trainer import resume_states
from saekit_trainer.options import OneSAE, parse_options
from saekit_trainer.runner import MultiSAETrainingRunner, SAETrainingRunner

warnings.simplefilter("ignore")
resume_states._SHARE = 0.3
model = boot_model(Path(sys.argv[1]) / "model", device="cpu")
warm = torch.zeros(4, 16, dtype=torch.int64)
model.forward(warm, taps={model.hook_point("blocks.2.hook_resid_pre"): lambda h: None})

def forked(place, name):
    options = parse_options([*flags(place, name), "--resume"])
    kind = SAETrainingRunner if isinstance(options, OneSAE) else MultiSAETrainingRunner
    begun, begins = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            log = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            kind(options.run, override_model=model, report=lambda _: os.write(begins, b".")).run()
            status = 0
        finally:
            os._exit(status)
    os.close(begins)
    return child, begun

def ended(child, begun):
    while os.read(begun, 1000):
        pass
    os.close(begun)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

rng, found = random.Random(0), {}
steps, kills = int(sys.argv[3]), int(sys.argv[4])
for scenario in sys.argv[2].split(","):
    place = Path(sys.argv[1]) / scenario
    assert ended(*forked(place, "whole")) == 0, (place / "log").read_text()
    found[scenario] = []
    for _ in range(kills):
        states = (place / "killed").glob("*/resume/step-*/state.json")
        done = max((int(f.parent.name.removeprefix("step-")) for f in states), default=0)
        child, begun = forked(place, "killed")
        for _ in range(rng.randrange(1, max((steps - done) * 2 // 3, 2))):
            os.read(begun, 1)
        time.sleep(0.005 * rng.random())
        os.kill(child, signal.SIGKILL)
        found[scenario].append([done, ended(child, begun)])
    assert ended(*forked(place, "killed")) == 0, (place / "log").read_text()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    build_model(folder)
    for name in KILLED:
        (folder / name).mkdir()
        SCENARIOS[name].write(folder / name, STEPS)
    return folder


def test_runs_that_were_killed_end_like_unbroken_ones(place: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", CHILD, str(place), ",".join(KILLED), str(STEPS), str(KILLS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    for kills in json.loads(found.stdout.splitlines()[-1]).values():
        done, statuses = zip(*kills, strict=True)
        assert set(statuses) == {-signal.SIGKILL}
        assert len({*done}) > 2, "the kills left no states to go on from"
    for name in KILLED:
        whole, killed = outcome(place / name, "whole"), outcome(place / name, "killed")
        assert killed.keys() == whole.keys()
        assert [file for file in whole if whole[file] != killed[file]] == []
