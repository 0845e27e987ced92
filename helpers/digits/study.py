"""The argument of notebook 03 about one classifier: what else would show its picture, and verdicts by method.

Notebook and sliders ask the same study. What does not apply is a `values.Nothing` with its reason.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from helpers.digits import faithful, truth
from helpers.digits.agreement import LEVEL, NOISE, Agreement
from helpers.digits.batches import side_by_side
from helpers.digits.inputs import Maps, together
from helpers.parameters import METHODS
from helpers.subspaces.nulls import holm
from helpers.values import Nothing, computed

INK = "ink"
RANDOM = "random"  # as `truth` calls noise
TESTS = {  # name: (curve, what replaces pixels)
    "deletion": ("deletion", "absence"),
    "insertion": ("insertion", "absence"),
    "deletion by images": ("deletion", "images"),
    "insertion by images": ("insertion", "images"),
}
POINTS = {"digits": 32, "mnist5k": 16}  # steps of a curve
BETTER = {"deletion": "less", "insertion": "greater"}


class Study(Agreement):
    """What a classifier's maps show, against other networks, randomised copies, ink, noise and planted truth.

    Tables have a row a method unless they say otherwise. See `Inputs` for what is asked, and what is refused.
    """

    @computed()
    def donors(self) -> Maps:
        """Images [n, h, w] of other digits, of the writers held out with an image's own: their pixels replace its."""
        found, rng = np.empty_like(self.images), self.rng(4)
        for fold in np.unique(self.fold):
            own, pool = self.fold == fold, self.seen[self.folds[self.seen] == fold]
            found[own] = faithful.donors(self.targets[own], self.data.images[pool], self.data.labels[pool], rng)
        return found

    @computed()
    def tried(self):
        """Areas [n] by (deletion or insertion, what replaces, order), of each seed: that under study, then peers."""
        donors, every = self.donors, [(self.readers, {method: self.maps[method] for method in self.offered})]
        for k, peer in enumerate(self.peers.values() if self.architecture else ()):
            every.append((peer, {method: maps[k] for method, maps in self.peer_maps.items()}))
        return list(side_by_side(lambda n: self._areas(n, donors, *every[n]), range(len(every))))

    def _noise(self, n):
        """Maps that know nothing, other ones for every seed's networks."""
        return self.rng(8, n).standard_normal(self.images.shape)

    def _areas(self, n, donors, readers, maps):
        orders, parts = {**maps, NOISE: self._noise(n), INK: self.images}, []
        for network, own in self.parts(readers):
            ends = {"absence": self.absence, "images": donors[own]}
            given = {order: values[own] for order, values in orders.items()}
            asked = self.images[own], self.targets[own], given, ends, self.rng(5, n)
            found = faithful.areas(network, *asked, POINTS[self.parameters.dataset])
            parts.append((own, pd.DataFrame(found)))
        columns = parts[0][1].columns
        return pd.DataFrame(together((own, areas.to_numpy(float)) for own, areas in parts), columns=columns)

    def beating(self, *seeds):
        """Whether an order beats the ink's, by means of each writer over the seeds: a row a method, and noise.

        Of each test the mean area, `− ink` the mean difference, ± its standard error over writers, and p (Holm over
        methods). Images of a class that the network has no gradient for are left out.
        """
        areas, units = sum(self.tried[n] for n in seeds)[self.there] / len(seeds), self.units[self.there]
        table = pd.DataFrame(index=pd.Index([*self.offered, NOISE], name="method"))
        for name, (curve, end) in TESTS.items():
            own = areas[curve][end]
            gaps = own[table.index].sub(own[INK], axis=0).to_numpy()
            mean, error, p = faithful.beats(gaps, units, BETTER[curve])
            columns = {
                "": faithful.by_unit(own[table.index].to_numpy(), units).mean(0),
                " − ink": mean,
                " ±": error,
                " p": holm(p),
            }
            table = table.assign(**{f"{name}{what}": values for what, values in columns.items()})
        return table

    @computed()
    def faithful(self):
        """`beating` of the network under study."""
        return self.beating(0)

    @computed()
    def there(self):
        """Which images are of a class that the network has a gradient for, [n]."""
        return ~np.isin(self.targets, list(self.opened.lacking))

    @computed("own")
    def curves(self):
        """{test: {order: curves [units, steps + 1]}} of the pictures' method, its absolute values, ink and noise."""
        orders = {self.parameters.method: self.own, "absolute": np.abs(self.own), INK: self.images}
        orders |= {NOISE: self._noise(0)}
        ends = {"absence": np.broadcast_to(self.absence, self.images.shape), "images": self.donors}
        found = {}
        for name, (curve, end) in TESTS.items():
            sides = (self.images, ends[end]) if curve == "deletion" else (ends[end], self.images)
            found[name] = {order: self._curves(*sides, maps) for order, maps in orders.items()}
        return found

    def _curves(self, start: Maps, stop: Maps, maps: Maps) -> Float[np.ndarray, "u steps"]:
        asked, points = (start, stop, self.targets, maps), POINTS[self.parameters.dataset]
        found = together(
            (own, faithful.replacement_curve(network, *(each[own] for each in asked), self.rng(6), points))
            for network, own in self.parts(self.readers)
        )
        return faithful.by_unit(found[self.there], self.units[self.there])

    @computed("curves")
    def orders(self):
        """Mean area under the `curves`: a row an order, a column a test."""
        areas = {test: {o: faithful.area(c).mean() for o, c in by.items()} for test, by in self.curves.items()}
        return pd.DataFrame(areas).rename_axis("order")

    @computed()
    def verdicts(self):
        """What maps are about: agreement, p of learnt and of `beating`, in words, and the largest p; noise last."""
        return self._verdicts(0)

    def verdict(self, method):
        """The row of `verdicts` of a method, or why it has none."""
        maps = self.maps[method]
        return maps if isinstance(maps, Nothing) else self.verdicts.loc[method]

    def _verdicts(self, *seeds):
        """Of one seed; of several, learnt by each of them, and better than the ink on average over them."""
        beating, each = self.beating(*seeds), [self.learnt(n) for n in seeds]
        agreement = sum(learnt.agreement for learnt in each) / len(each)
        least = np.max([holm(learnt.p) for learnt in each], axis=0)
        table = pd.DataFrame({"agreement": agreement, "learnt p": least})
        table = table.join(beating[[f"{name} p" for name in TESTS]]).rename_axis("method")
        p = table.filter(like=" p")
        return table.assign(about=[about(*row) for row in p.to_numpy()], p=p.max(axis=1, skipna=False))

    def over_seeds(self, method):
        """The row of `seeds` of a method, or why it has none."""
        maps = self.maps[method]
        if isinstance(maps, Nothing) or isinstance(self.seeds, Nothing):
            return maps if isinstance(maps, Nothing) else self.seeds
        return self.seeds.loc[method].rename({"others alike": "alike"})

    @computed()
    def seeds(self):
        """Five seeds: of how many each test holds, how many others have the first one's verdict, and that on all.

        That on all: learnt by each of them, and better than the ink on average over these five. NaN for a test that
        was not made.
        """
        if not self.architecture:
            return Nothing("your network is one network")
        every = range(len(self.tried))
        single, pooled = [self._verdicts(n) for n in every], self._verdicts(*every)
        known = pooled.filter(like=" p").notna()
        table = sum((each.filter(like=" p") < LEVEL).astype(int) for each in single).where(known)
        table.columns = [name.removesuffix(" p") for name in table]
        table["others alike"] = sum((each.about == self.verdicts.about).astype(int) for each in single[1:])
        return table.assign(together=pooled.about, p=pooled.p).rename_axis("method")

    @computed()
    def passed(self):
        """Names of the methods whose maps are about the model by every test, or why that was not tested."""
        if self.unlearnt:
            return Nothing(self.unlearnt)
        about = self.verdicts.about.drop(NOISE)
        return list(about.index[about == "the model"])

    @property
    def in_short(self):
        """What comes out for the network under study, as the end of a sentence."""
        if isinstance(self.passed, Nothing):
            return f"whether what maps show is learnt was not tested ({self.passed.reason})"
        names = ", ".join(self.passed).replace("_", " ") or "none"
        told = (
            f"{len(self.passed)} of {len(self.offered)} methods pass every test that what they show is about the model"
        )
        return f"{told} and not the ink ({names})"

    @computed()
    def noise_over_seeds(self):
        """Of how many tests of all seeds noise passes: passed, tests."""
        single = [self._verdicts(n).loc[NOISE].filter(like=" p").astype(float) for n in range(len(self.tried))]
        return pd.Series(
            {"passed": sum((p < LEVEL).sum() for p in single), "tests": sum(p.notna().sum() for p in single)}
        )

    @computed()
    def beating_ink(self):
        """Names of the methods that beat the ink by deletion and insertion: with absence, with images, differing."""
        p = self.faithful.drop(NOISE)
        plain, other = (
            [m for m in p.index if p.loc[m, [f"deletion{end} p", f"insertion{end} p"]].max(skipna=False) < LEVEL]
            for end in ("", " by images")
        )
        return pd.Series(
            {"absence": plain, "images": other, "differ": sorted({*plain} ^ {*other}, key=self.offered.index)}
        )

    @computed()
    def noise(self):
        """The p-values that a map of noise reaches in every test, corrected as those of the methods: test, p."""
        p = self.verdicts.loc[NOISE].filter(like=" p").rename(lambda name: name.removesuffix(" p")).astype(float)
        p["eMPRT"] = self.mprt["eMPRT p"][NOISE]
        return p.rename("p").rename_axis("test").reset_index()

    @computed()
    def planted(self):
        """`truth.scores` of the methods; the network under study has no part in it."""
        return truth.scores([method for method in METHODS if method != "attention_rollout"])

    @computed()
    def truth(self):
        """`truth.table`: how much of what was planted each method, and what has learnt nothing, finds; by task."""
        return truth.table(self.planted)

    @computed()
    def truth_tests(self):
        """`truth.beats`: p of finding no more than what has learnt nothing, by method and task."""
        return truth.beats(self.planted)

    @computed()
    def found_truth(self):
        """Mean precision over tasks, by method."""
        return self.planted.groupby("method", sort=False).precision.mean()[self.truth_tests.index]

    @computed()
    def missed_truth(self):
        """In how many tasks a method finds no more than what has learnt nothing."""
        return (self.truth_tests >= LEVEL).sum(axis=1)

    @computed()
    def truth_finders(self):
        """How many methods find more than what has learnt nothing, by task."""
        return (self.truth_tests < LEVEL).sum()

    @computed()
    def ranks(self):
        """Every method's rank by every measure, 1 is best, and that of noise; a column a measure."""
        signs = {"less": -1, "greater": 1}
        table = pd.DataFrame(
            {f"{test}": signs[BETTER[curve]] * self.faithful[f"{test} − ink"] for test, (curve, _) in TESTS.items()}
        )
        table.insert(0, "agreement", self.verdicts.agreement)
        table.insert(1, "eMPRT", self.mprt.eMPRT)
        table.insert(0, "planted truth", self.planted.groupby("method").precision.mean().rename({RANDOM: NOISE}))
        return table.rank(ascending=False)

    @computed()
    def concord(self):
        """Rank correlations over methods, without noise, of any two measures."""
        alike = self.ranks.drop(NOISE).corr("spearman").to_numpy()
        return alike[np.triu_indices(len(alike), 1)]


def about(learnt, *tests):
    """What a method's maps are about, in words: the p of being learnt, and those of TESTS; NaN was not tested."""
    passed = [name for name, p in zip(TESTS, tests, strict=True) if p < LEVEL]
    if len(passed) == len(TESTS) and learnt < LEVEL:
        return "the model"
    untested = [name for name, p in zip(TESTS, tests, strict=True) if np.isnan(p)]
    faithful = f"better than the ink by {', '.join(passed)}" if passed else "not shown to be better than the ink"
    faithful = "better than the ink" if len(passed) == len(TESTS) else faithful
    if untested:
        faithful = (
            f"{faithful} (not tested: {', '.join(untested)})"
            if len(untested) < len(TESTS)
            else "not tested against the ink"
        )
    known = (
        "not tested whether learnt" if np.isnan(learnt) else "learnt" if learnt < LEVEL else "not shown to be learnt"
    )
    return f"{known}; {faithful}"
