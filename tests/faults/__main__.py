"""Kills `saekit train` at random moments, goes on, and compares every byte of what comes out with
what an unbroken run left: ``python -m tests.faults`` (``make faults``)."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.faults.scenarios import SCENARIOS, build_model, flags, outcome

STEPS = 2000
# This share of the kills comes while a run loads, or takes up a state.
EARLY = 0.1


class Run:
    """A run of a scenario, in one process after the other.

    Attributes:
        loading: seconds until the first step of the last process.
        training: seconds from there to its end.
    """

    def __init__(self, place: Path, name: str) -> None:
        self.loading = self.training = 0.0
        self._place = place
        self._name = name
        self._log = place / f"{name}.log"

    @property
    def done(self) -> int:
        """Steps behind which the newest state is."""
        states = (self._place / self._name).glob("*/resume/step-*/state.json")
        return max((int(f.parent.name.removeprefix("step-")) for f in states), default=0)

    def go_on(self, *, load: float | None = None, train: float | None = None) -> bool:
        """Start `saekit train`, and kill it after so many seconds of loading or of training.

        Returns:
            Whether it came to its end before.
        """
        command = [sys.executable, "-m", "saekit_trainer", *flags(self._place, self._name)]
        with self._log.open("wb") as log:
            process = subprocess.Popen([*command, "--resume"], stdout=log, stderr=log)
        began = time.monotonic()
        while process.poll() is None and b"step " not in self._log.read_bytes():
            time.sleep(0.005)
            if load is not None and time.monotonic() - began > load:
                process.kill()
        stepping = time.monotonic()
        self.loading = stepping - began
        try:
            process.wait(train)
        except subprocess.TimeoutExpired:
            process.kill()
        status = process.wait()
        self.training = time.monotonic() - stepping
        if status not in (0, -signal.SIGKILL):
            raise SystemExit(self._log.read_text())
        return status == 0


def compare(place: Path, kills: int, rng: random.Random) -> tuple[list[str], list[str]]:
    """Kill runs that often, each time somewhere in what is still to be done; the moments, and the
    files that differ in the end."""
    whole = Run(place, "whole")
    whole.go_on()
    expected = outcome(place, "whole")
    moments: list[str] = []
    differing: list[str] = []
    attempt = 0
    while len(moments) < kills:
        attempt += 1
        name = f"killed-{attempt}"
        run = Run(place, name)
        ended = False
        while not ended:
            before = run.done
            if len(moments) == kills:
                ended = run.go_on()
            elif rng.random() < EARLY:
                ended = run.go_on(load=rng.random() * whole.loading)
                moments += ["loading"] * (not ended)
            else:
                # Half of it, so that several kills have room; some while features are described.
                left = whole.training * (1 - before / STEPS)
                ended = run.go_on(train=rng.random() * (left / 2 + 0.3))
                moments += [f"{before} + {run.training:.1f} s"] * (not ended)
        found = outcome(place, name)
        files = expected.keys() | found.keys()
        differing += [f"{name}/{f}" for f in sorted(files) if expected.get(f) != found.get(f)]
    return moments, differing


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--kills", type=int, default=24, help="in all (24)")
    parser.add_argument("--only", choices=SCENARIOS, action="append", help="some runs alone")
    parser.add_argument("--seed", type=int, help="of the moments; another one each time without")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    rng = random.Random(seed)
    names = arguments.only or list(SCENARIOS)
    print(f"seed {seed}; kills by the step that the run began with, and the time since", flush=True)
    total, broken = 0, 0
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        build_model(Path(temporary))
        for i, name in enumerate(names):
            place = Path(temporary) / name
            place.mkdir()
            SCENARIOS[name].write(place, STEPS)
            share = arguments.kills // len(names) + (i < arguments.kills % len(names))
            moments, differing = compare(place, share, rng)
            total += len(moments)
            broken += len(differing)
            verdict = f"DIFFERS: {', '.join(differing)}" if differing else "the same files"
            print(f"{name}: {', '.join(moments)}; {verdict}", flush=True)
    print(f"{total} kills, {broken} files that differ")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
