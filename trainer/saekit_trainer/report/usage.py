"""How to go on from a report."""

from __future__ import annotations

import shlex

from saekit_trainer.plan import SAEPlan
from saekit_trainer.report.parts import code
from saekit_trainer.results import TrainingResult
from saekit_trainer.serving import serve_command


def usage(plan: SAEPlan, result: TrainingResult, chosen: list[int]) -> str:
    """Lines to paste that load, serve, measure and share the SAE.

    Args:
        plan: of the SAE.
        result: has its folder.
        chosen: features that the page shows.
    """
    if result.folder is None:
        return ""
    folder = str(result.folder)
    name = result.folder.name
    cfg = result.sae.cfg
    python = (
        "from saekit_core.sae import SAE  # or: from sae_lens import SAE\n\n"
        f"sae = SAE.load_from_disk({folder!r})\n"
        f"features = sae.encode(activations)  # [..., {cfg.d_in}] → [..., {cfg.d_sae}]\n"
    )
    shell = [
        serve_command(result.folder, plan.cfg.model_name),
        f"saekit encode 'Once upon a time' --sae {shlex.quote(name)} --top-k 5",
    ]
    if chosen and cfg.metadata.hook_name_out is None:
        edit = shlex.quote(f"{name}:{chosen[len(chosen) // 2]} +1max")
        shell.append(f"saekit steer 'Once upon a time' --edit {edit} --baseline")
    others = [
        f"saekit eval --sae {shlex.quote(folder)} --self-text",
        f"saekit upload {shlex.quote(folder)} --repo USER/REPO",
    ]
    return (
        f"<p>In Python:</p>{code(python)}"
        f"<p>Served, and asked in another terminal:</p>{code(chr(10).join(shell))}"
        f"<p>Measured again, and shared:</p>{code(chr(10).join(others))}"
    )
