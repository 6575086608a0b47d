"""The other environment: a Python that has sae-lens, and scripts that run in it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
_VERSIONS = """
import json
from importlib.metadata import version
print(json.dumps({name: version(name) for name in ("sae-lens", "transformer-lens", "torch")}))
"""


class Peer:
    """A Python with sae-lens.

    The two processes share nothing but files: a part writes what it asks into a folder, and a
    script of its own name answers into the same folder.
    """

    def __init__(self, python: str) -> None:
        """Raises CalledProcessError where that Python has no sae-lens."""
        # The path is left as it is: a venv's python is a link, and following it leaves the venv.
        self._python = python
        self.versions: dict[str, str] = json.loads(self._call("-c", _VERSIONS))

    def run(self, script: str, *arguments: str | Path) -> None:
        """Run ``tests/parity/SCRIPT`` to its end.

        Raises:
            CalledProcessError: it failed; what it wrote to stderr is in the message.
        """
        self._call(str(HERE / script), *map(str, arguments))

    def _call(self, *arguments: str) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        # sae-lens writes some keys in the order of a set.
        env |= {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [self._python, *arguments], capture_output=True, text=True, env=env, check=False
        )
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, [self._python, *arguments])
            error.add_note(done.stderr[-4000:])
            raise error
        return done.stdout
