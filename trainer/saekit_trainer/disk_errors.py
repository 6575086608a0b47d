"""Why something could not be written, in words."""

from __future__ import annotations

import errno
from pathlib import Path


def why_not_written(folder: Path, error: Exception) -> str:
    """What `error`, of the system or of safetensors, says of writing to `folder`."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors passes the system's error on as text.
    if full or any(f"os error {code})" in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
        return f"the disk of {folder} is full"
    return f"cannot write {folder} ({getattr(error, 'strerror', None) or error})"
