"""Where a run writes its SAEs, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from saekit_core.sae.sae import SAE


def test_outputs_go_where_they_are_sent(run: Any, tmp_path: Path) -> None:
    runner, _ = run(
        output_path=str(tmp_path / "out"), checkpoint_path=str(tmp_path / "runs"), n_checkpoints=3
    )
    assert runner.result.folder == tmp_path / "out"
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("blocks.1.hook_resid_pre-standard-96-")
    folders = {p.name for p in folder.iterdir() if p.is_dir()}
    assert folders == {"512", "1024", "1536", "final_2048", "resume"}
    x = runner.store.next_batch()
    saes = [SAE.load_from_disk(folder / name) for name in ("512", "1024", "1536", "final_2048")]
    losses = [(sae(x) - x).square().sum().item() for sae in saes]
    assert losses == sorted(losses, reverse=True)
    assert torch.equal(saes[-1].W_enc, runner.result.sae.W_enc)
    assert all(sae.sparsity is not None for sae in saes)


def test_the_same_run_has_the_same_folder_and_another_has_not(run: Any, tmp_path: Path) -> None:
    runs = [{}, {}, {"seed": 3}, {"wandb_id": "mine"}]
    for values in runs:
        run(checkpoint_path=str(tmp_path), **values)
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "mine" / "final_2048" / "cfg.json").is_file()
