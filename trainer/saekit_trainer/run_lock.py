"""One process at a time in the folder of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from saekit_trainer.errors import CheckpointError

_NAME: Final = ".lock"


@contextmanager
def alone_in(run: Path | None) -> Iterator[None]:
    """Keep every other process that asks for the same out of a run's folder, until the end.

    Two that train the same run would each take the other's states for left-overs of an earlier
    attempt. A process that is killed keeps nobody out.

    Args:
        run: the folder; None: there is nothing to do.

    Raises:
        CheckpointError: another process is in it.
    """
    if run is None:
        yield
        return
    lock = FileLock(run / _NAME, timeout=0)
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise CheckpointError(
            f"checkpoint_path: another process is training in {run}; wait for its end, or train in "
            "another folder",
            field="checkpoint_path",
        ) from None
    except (OSError, NotImplementedError):
        pass  # A file system without locks; or one that cannot be written, as the first state says.
    try:
        yield
    finally:
        # A run that ended before it wrote anything leaves no folder; one that cannot be removed, or
        # was never made, is no reason to fail.
        with suppress(OSError):
            if {place.name for place in run.iterdir()} <= {_NAME}:
                (run / _NAME).unlink(missing_ok=True)
                run.rmdir()
        lock.release()
