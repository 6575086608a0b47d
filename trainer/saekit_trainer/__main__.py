"""`python -m saekit_trainer`: the same as `saekit train`."""

from __future__ import annotations

import sys

from saekit_trainer.cli import train

if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
