"""The network that notebook 03 asks, the images that it is asked about, and its maps of them.

A bundled architecture of `digits` is *cross-fitted*: five networks of one seed share out the images, each reads the
writers that it was not trained on. A tuple of networks, one for each fold, is called *readers*; someone's own network,
or one of `mnist5k`, whose writers are unknown, reads everything.
"""

import numpy as np
from jaxtyping import Float, Int

from helpers.digits import bundled, classifiers, controls, grids, images, networks, saliency, truth
from helpers.parameters import ARCHITECTURES, METHODS, PERMUTED, TRAINED, BadParameter
from helpers.values import Nothing, computed

Maps, Numbers = Float[np.ndarray, "n h w"], Int[np.ndarray, " n"]
Picture = Float[np.ndarray, "10 rows columns"]
CHECKED = 20  # images on which a method is tried before anything is computed
BACKGROUND = 1  # training images of each digit that stand for absence in expected gradients
OPEN = ("opened", "data", "folds", "readers", "peers", "others")  # of a network and its data: read once


class Inputs:
    """A digit classifier, images of digits, and the maps of the one on the others.

    parameters: as `parameters.DigitSaliency`; what cannot be computed is refused on construction (BadParameter,
    WeightsError). known: another study of the same network, whose OPEN are taken as they are.

    images [n, h, w], labels, targets (whose output is explained), units (writers, or images where these are unknown),
    fold (which of the readers reads an image), [n] each; chosen: their places in the data set; seen: those of all
    images that the network is asked to read.
    """

    def __init__(self, parameters, known=None):
        p = self.parameters = parameters
        vars(self).update({name: vars(known)[name] for name in OPEN if known and name in vars(known)})
        self.name, self.architecture = self.opened.name, self.opened.architecture
        self.train, self.held_out = images.hold_out(self.data)
        writers = self.data.writers
        self.seen = self.held_out if writers is None else np.arange(len(writers))
        self.chosen = images.examples(self.data.labels, self.seen, p.examples_per_digit, self.rng(1), writers)
        self.images, self.labels = self.data.images[self.chosen], self.data.labels[self.chosen]
        self.units = np.arange(len(self.chosen)) if writers is None else writers[self.chosen]
        self.fold = self.folds[self.chosen]
        self.targets = self.targets_of(self.chosen)
        if {*self.targets} <= self.opened.lacking.keys():
            of_one = f"of digit {min(self.targets)} {self.opened.lacking[min(self.targets)]}"
            raise BadParameter(f"target is {p.target!r}: {of_one}; explain another digit, or the label")
        self.sides = self._sides()
        for side in dict.fromkeys([(self.readers, p.method), *self.sides]):
            self.check_defined(*side)

    def replace(self, **changes):
        """The study of other parameters; what is open stays open, unless they name another network or feed it so."""
        schema = type(self.parameters)
        same = changes.keys().isdisjoint(("dataset", "model", *schema.feeding))
        return type(self)(schema.parse({**self.parameters.model_dump(), **changes}), self if same else None)

    def rng(self, *place):
        """A generator of its own for every use of the seed."""
        return np.random.default_rng([self.parameters.seed, *place])

    @computed()
    def data(self):
        """All images, `images.Digits`."""
        return images.load(self.parameters.dataset)

    @computed()
    def opened(self):
        """The network, `classifiers.Opened`."""
        return classifiers.opened(self.parameters, self.data)

    @computed()
    def folds(self):
        """The fold that holds out each image of the data set."""
        return images.fold_of(self.data)

    @computed()
    def readers(self):
        """The networks under study, that of each fold; or the one network."""
        return self.of_seed(TRAINED[0]) if self.architecture else (self.opened.network,)

    @computed()
    def files(self):
        """Everything that was read."""
        own = [self.opened.file] if self.opened.file else []
        dataset = self.parameters.dataset
        named = ARCHITECTURES if self.architecture else ["cnn"]
        planted = [file for task in truth.TASKS for file in truth.files(task)]
        return [self.data.file, *own, *(file for name in named for file in bundled.files(dataset, name)), *planted]

    @computed()
    def baselines(self):
        """{name: image [h, w] that stands for absence}."""
        return images.baselines(self.data)

    @property
    def absence(self):
        """The image that stands for absence."""
        return self.baselines[self.parameters.baseline]

    @computed()
    def options(self):
        """{method: what `saliency.attribute` takes for it}."""
        others = np.setdiff1d(self.train, self.chosen)
        few = images.examples(self.data.labels, others, BACKGROUND, np.random.default_rng(0))
        given = {"baseline": self.absence, "background": self.data.images[few]}
        return {method: {name: given[name] for name in given if name in saliency.OPTIONS[method]} for method in METHODS}

    def of_seed(self, name, architecture=""):
        """Readers of a bundled architecture, by default that under study."""
        return tuple(bundled.by_fold(self.parameters.dataset, architecture or self.architecture, [name])[name])

    @computed()
    def others(self):
        """{condition: readers} of the further networks that one under study, if bundled, is compared with."""
        if not self.architecture:
            return {}
        dataset, own = self.parameters.dataset, self.architecture
        other = {name: self.of_seed(TRAINED[0], name) for name in ARCHITECTURES}
        untrained = networks.untrained(own, self.images.shape[-1], seed=0).requires_grad_(False)
        permuted = bundled.by_seed(dataset, own)[PERMUTED]
        return {**self.peers, PERMUTED: (permuted,), "untrained": (untrained,), **other, own: self.readers}

    @computed()
    def peers(self):
        """{seed: readers} of trained networks that nothing but the task connects with the one under study."""
        names = TRAINED[1:] if self.architecture else TRAINED
        return {name: self.of_seed(name, self.architecture or "cnn") for name in names}

    def parts(self, readers, fold=None):
        """[(network, which of the images it reads), …]; fold: of the images, by default those chosen."""
        fold = self.fold if fold is None else fold
        if len(readers) == 1:
            return [(readers[0], np.arange(len(fold)))]
        owned = [np.flatnonzero(fold == k) for k in range(len(readers))]
        return [(network, own) for network, own in zip(readers, owned, strict=True) if len(own)]

    def read(self, readers, chosen: Numbers) -> Float[np.ndarray, "n 10"]:
        """Probabilities of images, by their places in the data set."""
        return together(
            (own, np.asarray(networks.probabilities(network, self.data.images[chosen[own]])))
            for network, own in self.parts(readers, self.folds[chosen])
        )

    def targets_of(self, chosen: Numbers) -> Numbers:
        """Whose output is explained, of images by their places in the data set."""
        asked = self.parameters.target
        if asked == "predicted":
            return self.read(self.readers, chosen).argmax(1)
        return self.data.labels[chosen] if asked == "label" else np.full(len(chosen), int(asked))

    def check_defined(self, readers, method):
        """Raise BadParameter unless a method is right for the readers, some of the images, and the baseline in use."""
        network, own = self.parts(readers)[0]
        own = own[:: max(1, len(own) // CHECKED)]  # `maps` checks all of them
        saliency.check_defined(network, method, self.images[own], self.targets[own], **self.options[method])

    def attributed(self, readers, method: str, **more) -> Maps:
        """Signed maps of the images by readers; more: options beside those of the study."""
        options = self.options[method] | more
        return together(
            (own, saliency.attribute(network, self.images[own], self.targets[own], method, **options))
            for network, own in self.parts(readers)
        )

    def all_maps(self, readers):
        """{method: signed maps [n, h, w], or Nothing where the method is not right for these networks and images}."""
        parts = [
            (own, *saliency.explain(network, self.images[own], self.targets[own], METHODS, self.options))
            for network, own in self.parts(readers)
        ]
        found = {}
        for method in METHODS:
            why = next((withheld[method] for _, _, withheld in parts if method in withheld), None)
            found[method] = Nothing(why) if why else together((own, maps[method]) for own, maps, _ in parts)
        return found

    @computed()
    def maps(self):
        """`all_maps` of the network under study."""
        return self.all_maps(self.readers)

    @property
    def own(self):
        """Maps of the method of the pictures, or Nothing."""
        return self.maps[self.parameters.method]

    @property
    def offered(self):
        """Names of the methods that have maps here."""
        return [method for method, maps in self.maps.items() if not isinstance(maps, Nothing)]

    def laid(self, maps: Maps) -> Float[np.ndarray, "n rows columns"]:
        """Maps on the grid of the pictures."""
        return grids.on_grid(maps, self.parameters.rows, self.parameters.columns)[0]

    def drawn(self, maps: Maps, normalisation: str = "joint") -> Picture:
        """The picture of maps: their means by digit on its grid; all ten, or each, sum to 1."""
        means = grids.class_means(self.laid(maps), self.labels)
        joint = grids.joint_normalise(means)
        return joint if normalisation == "joint" else np.stack([grids.joint_normalise(mean) for mean in means])

    def condition(self, name):
        """(readers, method) of one side of the comparison.

        name: `trained`, the network under study; `randomised`, the same with all its tensors drawn anew; the name of a
        method, the same network by that method; else one of `others`. Raises BadParameter for what this study has not.
        """
        method = name if name in METHODS else self.parameters.method
        if name in ("trained", *METHODS):
            return self.readers, method
        if name == "randomised":
            return self.shuffled(self.readers), method
        if name not in self.others:
            listed = ", ".join(
                [
                    "trained",
                    *self.others,
                    "randomised",
                    *(m for m in METHODS if not saliency.obstacle(self.readers[0], m)),
                ]
            )
            raise BadParameter(f"condition {name!r} is not to be had for {self.name}: expected one of {listed}")
        return self.others[name], method

    def shuffled(self, readers, draw=0, layers=None):
        """Readers whose tensors are drawn anew, all or those of the last layers only."""
        seed, copies = self.parameters.seed + draw, []
        for network in readers:
            names = [name for layer in controls.layers(network)[:layers] for name in layer]
            copies.append(controls.randomise(network, seed, names))
        return tuple(copies)

    def _sides(self):
        p = self.parameters
        one, other = sides = [self.condition(name) for name in (p.condition_a, p.condition_b)]
        if one == other:
            raise BadParameter(
                f"conditions {p.condition_a!r} and {p.condition_b!r} are the same network by the same method: give two"
            )
        return sides


def together(parts):
    """Arrays of several parts of the images, [(places, values), …], in the images' order."""
    places, values = zip(*parts, strict=True)
    return np.concatenate(values)[np.concatenate(places).argsort()]
