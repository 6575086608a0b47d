"""`python -m saekit_client`: the same as `saekit`."""

import sys

from saekit_client.cli import main

if __name__ == "__main__":
    sys.exit(main())
