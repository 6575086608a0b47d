"""A server in a process of its own, as users run it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SERVING = re.compile(r"saekit: serving on (\S+)")


@contextmanager
def served(*flags: str) -> Iterator[str]:
    """The address of a server with these flags; drained at the end."""
    with served_process(*flags) as (address, _):
        yield address


@contextmanager
def served_process(*flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The same with its process."""
    command = [sys.executable, "-m", "saekit_client.cli", "serve", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--drain", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if match := _SERVING.match(line):
                yield match[1], process
                break
        else:
            raise RuntimeError("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
