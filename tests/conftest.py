"""What every test shares."""

import os

# One thread a process: the suite runs on small machines, and results do not depend on scheduling.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

settings.register_profile("saekit", deadline=None, print_blob=True)
settings.load_profile("saekit")
