"""Steering with a plot: how a feature's activation develops while a text is steered by it.

Generates a continuation with one feature turned up and its unsteered twin, prints both, and plots
the watched features at every token of the two.

    python examples/steer_and_plot.py "Once upon a time" --sae blocks.2.hook_resid_pre \\
        --feature 12 --watch 34 56 --out steering.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from saekit_client import Client, Edit, Generation, Sampling, Watch, add


def steer(address: str, prompt: str, edit: Edit, watch: Watch) -> list[Generation]:
    """The steered text and its baseline, with the watched features at every token."""
    with Client(address) as client:
        stream = client.steer(
            prompt,
            edits=[edit],
            sampling=Sampling(temperature=0.7, seed=0),
            max_new_tokens=40,
            ignore_eos=True,
            baseline=True,
            watch=[watch],
        )
        return stream.generations()


def plot(generations: Sequence[Generation], watch: Watch, out: Path) -> None:
    """One panel per text, one line per watched feature."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    panels = figure.subplots(len(generations), sharex=True, sharey=True)
    for panel, generation in zip(panels, generations, strict=True):
        # Row 0 is the prompt's last token; the rest are the generated ones.
        for i, feature in enumerate(watch.features):
            panel.plot(generation.watched[:, i], label=f"#{feature}", marker=".")
        panel.set_title("baseline" if generation.baseline else "steered", loc="left")
        panel.set_ylabel("activation before the edit")
    panels[0].legend(title=watch.sae)
    panels[-1].set_xlabel("generated tokens")
    figure.savefig(out, dpi=150)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--address", default="localhost:50051")
    parser.add_argument("--sae", required=True)
    parser.add_argument("--feature", type=int, required=True)
    parser.add_argument("--strength", type=float, default=2.0, help="of the recorded maximum")
    parser.add_argument("--watch", type=int, nargs="*", default=[], help="more features to plot")
    parser.add_argument("--out", type=Path, default=Path("steering.png"))
    arguments = parser.parse_args()
    sae, feature = arguments.sae, arguments.feature
    edit = add(sae, feature, arguments.strength, unit="max_activation")
    watch = Watch(sae, [feature, *arguments.watch])
    generations = steer(arguments.address, arguments.prompt, edit, watch)
    for generation in generations:
        print("baseline:" if generation.baseline else "steered: ", generation.text)
    plot(generations, watch, arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
