"""A server process of the demo's own."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from saekit_client.demo.report import DemoError

_SERVING = "saekit: serving on "


class ServerProcess:
    """`saekit serve` with some arguments; stops with its block."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        """Starts it; what it says on stderr goes to `log`."""
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                saekit(*words), stdout=subprocess.PIPE, stderr=errors, text=True, env=environment()
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.stop(timeout=10)
        self._reader.join()

    def wait_until_it_listens(self, timeout: float) -> str:
        """The address that it says it serves on.

        Raises:
            DemoError: it ended, or did not say so in time; with the end of its log.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise DemoError(f"no server after {timeout:.0f} s\n{self._end_of_log()}") from None
            if line is None:
                code = self._process.wait()
                raise DemoError(f"the server ended with exit code {code}\n{self._end_of_log()}")
            if line.startswith(_SERVING):
                return line.removeprefix(_SERVING).strip()

    def stop(self, timeout: float = 60.0) -> int:
        """Asks it to end (SIGTERM) and waits; its exit code, not 0 if it had to be killed."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def _end_of_log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


def environment() -> dict[str, str]:
    """For server and trainer on the same few processors: idle threads must not spin."""
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}


def saekit(*words: str) -> list[str]:
    """A command line that runs `saekit` with this Python."""
    return [sys.executable, "-m", "saekit_client.cli", *words]
