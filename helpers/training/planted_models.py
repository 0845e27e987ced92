"""Networks that know a planted truth, and their cards.

Used by `notebooks/training/planted_models.ipynb` only.
"""

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from helpers.digits import truth
from helpers.training.cards import whole_directory, write_card
from helpers.training.digit_models import one_thread

DRAWN_AT_ONCE = 50  # batches
CARD = """# Networks that know a planted truth: {task}

Networks that differ by their seed. The class of their images hangs on known pixels: `{task}` in
`helpers/digits/truth.py`.

- **Source**: made here, by `notebooks/training/planted_models.ipynb` ({used}). The architecture is `network` in
  `helpers/digits/truth.py`. Weights are in half precision; accuracies were measured with these.
- **Trained on**: {source}. No image is in this directory.
- **Licence**: MIT, as the rest of this repository.

| network | accuracy on new images |
|---|---|
{figures}

{hashes}
"""
DRAWN = "images drawn by `make` in `helpers/digits/truth.py`, none of them twice"
MARKED = (
    "scikit-learn's `load_digits`, the test half of UCI's optdigits (Alpaydin & Kaynak 1998; CC BY 4.0, as UCI "
    "states), without the inferred writers that are held out, each digit with a mark drawn anew"
)


def fit(task, seed, *, steps, batch_size, learning_rate, weight_decay):
    """A network of this seed that learnt the task from images drawn anew for each step of AdamW.

    The learning rate rises to its greatest and falls again (Smith & Topin 2018). The weights are rounded to half
    precision, as they are saved.
    """
    model, rng = truth.network(seed), np.random.default_rng([1, truth.TASKS.index(task), seed])
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    with one_thread():
        for x, y in _batches(task, steps, batch_size, rng):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return model.half().float()


def save(networks, directory, card):
    """Save {seed: network} as safetensors with a card; the directory appears whole or stays as it was."""
    with whole_directory(directory) as partial:
        for seed, model in networks.items():
            save_file(model.half().state_dict(), partial / f"seed_{seed}.safetensors")
        write_card(partial, card)
    return directory


def card(task, accuracies, settings):
    """Card of the networks of a task. accuracies: {seed: on new images}. settings: what `fit` was given."""
    return CARD.format(
        task=task,
        used=", ".join(f"{name} {value}" for name, value in settings.items()),
        source=MARKED if task == "marked_digits" else DRAWN,
        figures="\n".join(f"| `seed_{seed}` | {accuracy:.4f} |" for seed, accuracy in accuracies.items()),
        hashes="{hashes}",
    )


def _batches(task, steps, size, rng):
    for first in range(0, steps, DRAWN_AT_ONCE):
        count = min(DRAWN_AT_ONCE, steps - first)
        images, labels, _ = truth.make(task, count * size, rng, held_out=False)
        yield from zip(torch.tensor(images)[:, None].split(size), torch.tensor(labels).split(size), strict=True)


def exchanged(planted):
    """Images with the true pixels of one image and all else of one of the other class; labels are those of the first.

    Pairs are images whose true pixels have the same centre; what is true in either comes from the first. Images that
    find no partner are left out.
    """
    images, labels, true = planted
    places = {}
    for index, where in enumerate(true):
        places.setdefault(tuple(np.argwhere(where).mean(0)), ([], []))[labels[index]].append(index)
    pairs = np.concatenate([list(zip(*two, strict=False)) for two in places.values() if all(two)])
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    one, other = pairs.T
    taken = true[one] | true[other]
    return truth.Planted(np.where(taken, images[one], images[other]), labels[one], taken)
