"""The bundled digit classifiers: where they lie, and how they are read."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from helpers.digits.images import BY_WRITER, FOLDS, SIZES
from helpers.digits.networks import untrained
from helpers.parameters import PERMUTED, TRAINED
from helpers.paths import of_repository
from helpers.weights import WeightsError

BUNDLED = "data/digit_models"


def directory(dataset, architecture):
    """Where the networks of one data set and architecture lie."""
    return of_repository(BUNDLED) / f"{dataset}-{architecture}"


def name(seed, fold):
    """Name of a network, and of its file: seed_0 of fold 0, fold_1-seed_0 of fold 1."""
    return f"fold_{fold}-{seed}" if fold else seed


def by_seed(dataset, architecture):
    """{name: network} of one data set and architecture that are trained without fold 0: seed_0 …, permuted_labels.

    The last was trained on labels that were permuted among the training images. Raises WeightsError for a file that
    is missing, broken, or holds NaN.
    """
    place = directory(dataset, architecture)
    return {seed: read(place / f"{seed}.safetensors", dataset, architecture) for seed in (*TRAINED, PERMUTED)}


def by_fold(dataset, architecture, seeds=TRAINED):
    """{seed: [network trained without fold 0, 1, …]} of one data set and architecture; see `images.folds`.

    seeds: names of those that are asked for. One fold where the writers are not known. Raises as `by_seed`.
    """
    place = directory(dataset, architecture)
    return {
        seed: [read(place / f"{name(seed, fold)}.safetensors", dataset, architecture) for fold in range(folds(dataset))]
        for seed in seeds
    }


def folds(dataset):
    """For how many folds there are networks: one where the writers are not known."""
    return FOLDS if dataset in BY_WRITER else 1


def files(dataset, architecture):
    """Files of the networks of one data set and architecture."""
    place = directory(dataset, architecture)
    names = [name(seed, fold) for fold in range(folds(dataset)) for seed in TRAINED]
    return [place / f"{each}.safetensors" for each in (*names, PERMUTED)]


def read(file, dataset, architecture):
    """A network of one data set and architecture from its file."""
    network = untrained(architecture, SIZES[dataset], seed=0)
    return restored(network, file, f"the {architecture} of this data set")


def restored(network, file, what):
    """A network with the numbers of a file, in float32 however they are stored, and frozen.

    what: it is, for a sentence. Raises WeightsError for a file that is missing, broken, another network's, or holds
    NaN.
    """
    try:
        network.load_state_dict(load_file(file))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise WeightsError(f"{file} does not hold {what} ({error}): restore it from the repository") from error
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise WeightsError(f"{file} holds NaN or infinite numbers: restore it from the repository")
    return network.requires_grad_(False)
