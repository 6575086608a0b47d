"""What every test shares."""

import os

# One thread a process: the suite runs on small machines, and results do not depend on scheduling.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

# The same examples in every run; HYPOTHESIS_PROFILE=explore looks for new ones, and longer.
settings.register_profile("saekit", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "saekit"))
