"""Small steps run on one thread of a CPU, and whatever is large on all of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from tests.serving import Running

from saekit_server.engine.threads import SMALL_STEP, StepThreads


def test_a_small_step_has_one_thread_and_a_large_one_all(server: Running) -> None:
    model = server.server.parts.model
    per_token = 2 * sum(p.numel() for p in model.hf.parameters())
    before = torch.get_num_threads()

    def counts() -> list[int]:
        torch.set_num_threads(3)
        threads, seen = StepThreads(model), []
        # A decode step, a long text, a short one through a wide SAE, a decode step.
        for tokens, others in ((1, 0.0), (int(SMALL_STEP / per_token) + 1, 0.0), (1, SMALL_STEP)):
            threads.for_step(tokens, others)
            seen.append(torch.get_num_threads())
        threads.for_step(1)
        return [*seen, torch.get_num_threads()]

    with ThreadPoolExecutor(1) as pool:  # as the device, in a thread of its own
        assert pool.submit(counts).result() == [1, 3, 3, 1]
    torch.set_num_threads(before)
