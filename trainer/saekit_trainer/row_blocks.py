"""How many rows of a batch to work on at a time."""

from __future__ import annotations

from torch import Tensor

from saekit_trainer.architectures.base import TrainingSAE

# Arrays [rows, d_sae] of a block stay in cache, and below the size from which the C allocator asks
# the system for fresh pages each time.
BLOCK_BYTES = 8 * 2**20
# Where few activations are not 0 there is one such array, and what a block costs are the gradients,
# which go through memory once for each.
SPARSE_BLOCK_BYTES = 128 * 2**20
SMALLEST_BLOCK = 256


def block_rows(sae: TrainingSAE, x: Tensor, *, sparse: bool = False) -> int:
    """How many rows of x ``[rows, d_in]`` to take together; all of them but on a CPU.

    Args:
        sae: is trained on them.
        x: a batch.
        sparse: whether `TrainingSAE.works_sparsely`.
    """
    if x.device.type != "cpu":
        return len(x)
    wanted = SPARSE_BLOCK_BYTES if sparse else BLOCK_BYTES
    return max(wanted // (sae.n_features * x.element_size()), SMALLEST_BLOCK)


def blocks(n: int, size: int) -> list[tuple[int, int]]:
    """Where each of the blocks of `n` rows starts and stops."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]
