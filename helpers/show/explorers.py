"""The explorers of the notebooks: what their sliders are, and what is computed at each position."""

from functools import lru_cache, partial

import numpy as np
from scipy import stats

from helpers import digits
from helpers.digits import controls, grids
from helpers.parameters import METHODS, BadParameter, DigitSaliency, RandomBaselines, SubspaceSimilarity
from helpers.show import live, words
from helpers.show.explore import BUDGET, FEW, Axis, Cells, Explorer
from helpers.show.layer_card import LayerCards
from helpers.show.pair_card import PairCards
from helpers.show.phi import PhiRow, phi_titles
from helpers.subspaces import chance, haar
from helpers.subspaces.directions import FULL_SVD_SIZE
from helpers.values import Nothing, passing
from helpers.weights import modules

WORK = 10**10  # multiplications; where decomposing all weights takes more, a page holds the one in question only
KINDS = 12  # projections that a page of an atlas holds all of; more of them are heads
CARD, ADAPTER = 27_000, 3_500  # bytes in a page that a layer's card takes, and every adapter on it
PAIR_CARD = 36_000  # bytes in a page that a pair's card takes
PAIRS = 15  # that a page holds all of
SHORT = {"phi": "φ", "excess": "φ − chance", "z": "z"}


@passing
def subspace_similarity(study):
    """Explorer of notebook 01: φ of adapters and of random directions with W. study: a `subspaces.Similarity`."""
    if isinstance(study.panels, Nothing):
        return study.panels
    p, work = study.parameters, _Similarity(study)
    names = ("factor", "side", "quantity", "read_i", "read_j", "colour_low", "colour_high")
    start = {name: getattr(p, name) for name in names} | {"adapters": tuple(p.adapters)}
    window, every = (study.first_i, study.last_i), zip(*work.places, strict=True)
    start |= dict(zip(("layer", "projection", "first_i", "last_i"), work.place + window, strict=True))
    layers, projections = ([*dict.fromkeys(keys)] for keys in every)
    single = dict(zip(((path,) for path in p.adapters), study.labels, strict=True))
    shades = {start["colour_low"], start["colour_high"], *(n / 100 for n in range(101))}
    shapes = [study.base.shape(name) for name in work.places.values()]
    ordered = sorted(layers)
    some = _evenly(ordered, len(layers) if len(layers) < 8 else 5)  # of a deep model
    held = None if sum(min(shape) ** 2 * max(shape) for shape in shapes) < WORK else ()
    few = held if len(projections) <= FEW else ()  # of heads there are many
    sparse = range(0, study.available, max(1, study.available // 24))
    rows = study.available if study.available <= FULL_SVD_SIZE else max(study.available // 4, study.last_i)
    reads = [
        sorted({0, p.read_i, *range(study.first_i, study.last_i + 1), *sparse}),
        sorted({0, p.read_j, *range(study.last_j + 1)}),
    ]
    axis = partial(_axis, SubspaceSimilarity)
    chosen = {"word": lambda value: str(value) if value else "chosen", "in_page": ()}
    axes = [
        axis("layer", ordered, "layer", "module", in_page=some if held is None else held),
        axis("projection", projections, "projection", "module", kinds=True, in_page=few),
        axis("factor", study.factors, "factor", kinds=True),
        axis("side", SubspaceSimilarity.choices("side"), "side", kinds=True, needs=("factor", "BA")),
        axis("quantity", SHORT, "shown", word=SHORT.get, kinds=True),
        axis(
            "adapters",
            dict.fromkeys([tuple(p.adapters), *single]),
            "rank",
            word=lambda a: single.get(a, "all"),
            kinds=True,
            in_page=(),
        ),
        axis(("first_i", "last_i"), range(1, rows + 1), "rows i", "first_i"),
        axis(("colour_low", "colour_high"), sorted(shades), "colours of φ", "colour_high", word="{:g}".format),
        axis("read_i", reads[0], "read at i", **chosen),
        axis("read_j", reads[1], "read at j", **chosen),
    ]
    return Explorer("Heatmaps of φ between W and the adapters", work.draw, axes, start)


def random_baselines(p):
    """Explorer of notebook 02: the law of φ under chance, its bands and what can be noticed. p: its parameters."""
    start = {name: getattr(p, name) for name in ("dimension", "rank_i", "rank_j", "draws")}
    powers = [2**n for n in range(11)]
    axis = partial(_axis, RandomBaselines)
    axes = [
        axis("rank_i", sorted({*powers, *(3 * n for n in powers[:9]), p.rank_i}), "i", in_page=(1, 4, 16, 64)),
        axis("rank_j", sorted({*powers[:6], p.rank_j}), "j", in_page=(1, 4, 16)),
        axis("dimension", sorted({*powers[4:], 576, 768, 4096, 12288, p.dimension}), "d", in_page=(576, 4096, 12288)),
        axis("draws", sorted({100, 400, 1000, 4000, p.draws}), "draws", in_page=()),
    ]
    return Explorer("The law of φ under chance", _Random(p).draw, axes, start)


def digit_saliency(study):
    """Explorer of notebook 03: an image, its map, and those of copies in which one layer after another is shuffled."""
    work, p = _Digits(study), study.parameters
    names = ("digit", "example", "target", "method", "baseline", "rows", "columns", "normalisation", "colour_map")
    start = {name: getattr(p, name) for name in names} | {"model": p.model or "cnn"}
    depths = {name: len(controls.layers(readers[0])) for name, readers in work.networks.items()}
    own, most = depths[start["model"]], max(depths.values())
    start["randomised_layers"] = min(p.randomised_layers, most)
    some = _evenly(range(own + 1), min(own, 8) + 1)  # of a deep network
    kinds = partial(_axis, DigitSaliency, kinds=True)
    steps = partial(_axis, DigitSaliency)
    methods = study.offered if start["model"] == "transformer" or not study.architecture else METHODS
    axes = [
        steps("digit", range(10), "digit"),
        steps("randomised_layers", range(most + 1), "layers shuffled", in_page=some),
        kinds("method", methods, "method", word=lambda name: name.replace("_", " "), in_page=("gradient",)),
        kinds("target", DigitSaliency.choices("target"), "explained", in_page=()),
        steps("example", range(p.examples_per_digit), "example", in_page=()),
        kinds("model", work.networks, "architecture", in_page=()),
        kinds("baseline", study.baselines, "baseline", in_page=()),
        steps("rows", range(1, study.images.shape[1] + 1), "rows", in_page=()),
        steps("columns", range(1, study.images.shape[2] + 1), "columns", in_page=()),
        kinds("normalisation", DigitSaliency.choices("normalisation"), "normalisation", in_page=()),
        kinds("colour_map", sorted({"inferno", "hot", "viridis", "Greys", p.colour_map}), "colours", in_page=()),
    ]
    return Explorer("Maps of digits by a network and by copies with shuffled layers", work.draw, axes, start)


@passing
def model_atlas(atlas):
    """Explorer of notebook 05: a card of one module at a time, with all adapters. atlas: a `subspaces.ModelAtlas`."""
    if isinstance(atlas.rows, Nothing):
        return atlas.rows
    work = LayerCards(atlas)
    if not work.details:
        return Nothing("no module could be measured")
    layers, every = atlas.layers, len(atlas.projections) <= KINDS
    most = int(0.85 * BUDGET / (CARD + ADAPTER * len(atlas.labels))) // (len(atlas.projections) if every else 1)
    axis = partial(_axis, type(atlas.parameters), about="modules")
    axes = [
        axis("layer", layers, "layer", in_page=_evenly(layers, max(most, 2))),
        axis("projection", atlas.projections, "projection", kinds=True, in_page=None if every else ()),
    ]
    return Explorer("What each update is, module by module", work.draw, axes, work.start)


@passing
def adapters_together(together):
    """Explorer of notebook 06: a card of a module and a pair at a time. together: a `subspaces.AdaptersTogether`."""
    work = PairCards(together)
    if not work.known:
        return Nothing("no module could be measured")
    layers, kinds, pairs = together.layers, together.projections, work.names
    room = int(0.85 * BUDGET / PAIR_CARD)
    few = pairs if len(pairs) <= PAIRS else pairs[:1]
    every = 4 * len(kinds) * len(few) <= room
    most = room // (len(few) * (len(kinds) if every else 1))
    axis = partial(_axis, type(together.parameters))
    axes = [
        axis("layer", layers, "layer", "modules", in_page=_evenly(layers, max(most, 2))),
        axis("projection", kinds, "projection", "modules", kinds=True, in_page=None if every else ()),
        axis("pair", pairs, "pair", "adapters", word=" · ".join, kinds=True, in_page=None if few is pairs else ()),
    ]
    return Explorer("What two adapters are to each other, module by module", work.draw, axes, work.start)


class _Similarity:
    """What the explorer of notebook 01 shows: the same study of other parameters; the last are remembered."""

    def __init__(self, study):
        self.study, self.window = study, (study.first_i, study.last_i)
        self.places = modules.by_layer(study.common)
        self.place = next(place for place, name in self.places.items() if name == study.module)
        self.row, self.replaced = lru_cache(8)(PhiRow), lru_cache(64)(self.replaced)

    def replaced(self, adapters, **changes):
        return self.study.replace(adapters=list(adapters), **changes)

    def at(self, layer, projection, adapters, quantity, **given):
        """The study at a position of the sliders; (i, j) of the cell that is read."""
        if (layer, projection) not in self.places:
            raise BadParameter(f"layer {layer} has no {projection} that all adapters and the model have")
        if (given["first_i"], given["last_i"]) == self.window:  # as they were chosen: another module may choose others
            given |= {name: getattr(self.study.parameters, name) for name in ("first_i", "last_i")}
        read_i, read_j = (given.pop(name) for name in ("read_i", "read_j"))
        study = self.replaced(adapters, module=self.places[layer, projection], **given)
        return study, (min(max(read_i, study.first_i), study.last_i), min(read_j or study.j, study.last_j))

    def draw(self, **given):
        study, (i, j) = self.at(**given)
        quantity, colours = given["quantity"], (given["colour_low"], given["colour_high"])
        p, which = study.parameters, list(SHORT).index(quantity)
        if isinstance(study.panels, Nothing):
            raise BadParameter(study.panels.reason)
        grids, excess, z = ([each[n] for each in study.panels.values()] for n in range(3))
        row, titles = self.row(len(grids)), phi_titles(study.module, p.factor, study.ranks)
        title = (
            f"{modules.short_name(study.module)}, layer {given['layer']}: {SHORT[quantity]}; read at i = {i}, j = {j}"
        )
        shown = dict(zip(titles, (grids, excess, z)[which], strict=True))
        figure = row.show(shown, title, study.first_i, colours, study.level, quantity, (i, j))
        values = {"φ": (grids, 4), "chance": ([a - b for a, b in zip(grids, excess, strict=True)], 4), "z": (z, 1)}
        panels = dict(zip(study.panels, row.panels, strict=True))
        cells = Cells(panels, "i = {}, j = {}", (study.first_i, 1), values)
        has = [n for n, grid in enumerate(grids) if j <= grid.shape[1]]
        names = [list(panels)[n] for n in has]
        phi_there, z_there = ([each[n][i - study.first_i, j - 1] for n in has] for each in (grids, z))
        line = (
            f"{study.module}, factor {p.factor}, {p.side} directions, d = {study.d}. At i = {i}, j = {j}: "
            f"φ = {words.readings(phi_there, names, 4)}; chance {chance.mean(i, j, study.d):.4f} ± "
            f"{chance.variance(i, j, study.d) ** 0.5:.4f}; z = {words.readings(z_there, names, 1)}."
        )
        return figure, line, cells


class _Random:
    """What the explorer of notebook 02 computes."""

    def __init__(self, p):
        self.p, self.figure = p, live.LawRow()
        self.cosines = lru_cache(64)(self.cosines)

    def cosines(self, i, j, d, draws):
        return haar.random_cosines(i, j, d, draws, np.random.default_rng([self.p.seed, 2, i, j]))

    def draw(self, **given):
        q = RandomBaselines.parse({**self.p.model_dump(), **given})
        d, i, j = q.dimension, q.rank_i, q.rank_j
        mean, spread = chance.mean(i, j, d), chance.variance(i, j, d) ** 0.5
        cosines = self.cosines(i, j, d, q.draws)
        phi = cosines.mean(axis=1)
        x = np.linspace(max(mean - 4.5 * spread, 0), min(mean + 5.5 * spread, 1), 300)
        laws = {
            "matched Beta": -np.gradient(chance.tail_probability(x, i, j, d), x),
            "normal": stats.norm(mean, spread).pdf(x),
        }
        rows = np.unique(np.linspace(1, min(max(2 * i, 8), d - 1), 80).astype(int))
        shares = {"90 % of chance": (0.05, 0.95), "99.9 %": (0.0005, 0.9995)}
        limits = {name: [chance.critical_phi(share, rows, j, d) for share in ends] for name, ends in shares.items()}
        levels = {"5 % at one cell": 0.05, "5 % over all i · j cells": 0.05 / (i * j)}
        critical = {name: chance.critical_phi(level, i, j, d) for name, level in levels.items()}
        strengths = 10 ** np.arange(0, 9, 0.25)
        always = [(chance.planted_cosines(cosines, s).mean(axis=1) >= max(critical.values())).all() for s in strengths]
        strengths = np.geomspace(1, strengths[np.argmax(always)] if any(always) else strengths[-1], 40)
        planted = np.array([chance.planted_cosines(cosines, strength).mean(axis=1) for strength in strengths])
        ratios = planted.mean(axis=1) / mean
        power = {name: (planted >= least).mean(axis=1) for name, least in critical.items()}
        noticed = [np.interp(0.9, values, ratios, right=np.nan) for values in power.values()]
        line = (
            f"d = {d}, i = {i}, j = {j}: chance {mean:.4g} ± {spread:.2g}; {q.draws:,} draws {phi.mean():.4g} ± "
            f"{phi.std():.2g}. One φ in twenty exceeds {critical['5 % at one cell']:.4g}. Noticed nine times in ten "
            f"from a mean φ of this many times chance: {words.readings(noticed, power)}."
        )
        title = f"φ of random subspaces, i = {i} and j = {j} of d = {d} dimensions"
        bands = rows, chance.mean(rows, j, d), limits, (i, mean)
        return self.figure.show(phi, (x, laws), *bands, (ratios, power), title), line, None


class _Digits:
    """What the explorer of notebook 03 shows: maps of the same study of other parameters; the last are remembered."""

    def __init__(self, study):
        self.study = study
        self.networks = {name: study.others[name] for name in digits.ARCHITECTURES} if study.architecture else {}
        self.networks = self.networks or {study.parameters.model: study.readers}
        self.figure = live.DigitPanels()
        self.of, self.replaced, self.copies, self.maps = (
            lru_cache(n)(f) for n, f in ((2, self.of), (64, self.replaced), (4, self.copies), (256, self.maps))
        )

    def of(self, model):
        """The study of one of the networks."""
        if self.networks[model] == self.study.readers:
            return self.study
        sides = {"condition_a": "trained", "condition_b": "randomised"}
        return self.study.replace(model=model, method="gradient", **sides)

    def replaced(self, model, **asked):
        return self.of(model).replace(**asked)

    def copies(self, model, shuffled):
        return self.study.shuffled(self.networks[model], 0, shuffled) if shuffled else self.networks[model]

    def maps(self, model, shuffled, **asked):
        study, readers = self.replaced(model, **asked), self.copies(model, shuffled)
        if not shuffled and study.parameters == self.study.parameters and not isinstance(self.study.own, Nothing):
            return self.study.own  # which the report has already
        study.check_defined(readers, study.parameters.method)
        return study.attributed(readers, study.parameters.method)

    def answer(self, readers, n):
        chances = self.study.read(readers, self.study.chosen[[n]])[0]
        return f"{chances.argmax()} (p = {chances.max():.2f})"

    def draw(self, **given):
        q = DigitSaliency.parse({**self.study.parameters.model_dump(), **given})
        there = len(controls.layers(self.networks[q.model][0]))
        shuffled = min(q.randomised_layers, there)
        study = self.replaced(q.model, rows=q.rows, columns=q.columns)
        n = np.flatnonzero(study.labels == q.digit)[q.example]
        asked = {"method": q.method, "baseline": q.baseline, "target": q.target}
        own, copy = (self.maps(q.model, layers, **asked) for layers in (0, shuffled))
        answers = [self.answer(self.copies(q.model, layers), n) for layers in (0, shuffled)]
        ink = grids.class_means(study.laid(study.images), study.labels)
        means = [study.drawn(each, q.normalisation) for each in (own, copy)]
        high, means = q.colour_high or max(each.max() for each in means), [each[q.digit] for each in means]
        common = np.minimum(*(each / (each.sum() or 1.0) for each in means)).sum()
        signed, absolute = (float(controls.rank_similarity(f(own[[n]]), f(copy[[n]]))[0]) for f in (np.asarray, np.abs))
        method, copied = q.method.replace("_", " "), f"{shuffled} of {there} layers shuffled"
        line = (
            f"Digit {q.digit}, example {q.example}: read as {answers[0]}; by a copy with {copied} as {answers[1]}. The "
            f"maps of the two by {method}, for {explained(q.target)}, correlate by {words.number(signed)}, without "
            f"their signs by {words.number(absolute)}. The mean maps of the digit have {100 * common:.0f} % in common; "
            f"their brightest cells have {means[0].max():.4f} and {means[1].max():.4f}."
        )
        titles = ["image", "its map", copied, "mean ink", "mean map", copied]
        title = f"Digit {q.digit} by {method}: the network, and a copy with {copied}"
        bar = f"share of {'all ten maps' if q.normalisation == 'joint' else 'the map'}"
        single = study.images[n], *(each[n] / (np.abs(each[n]).max() or 1.0) for each in (own, copy))
        figure = self.figure.show(single, (ink[q.digit], *means), titles, title, q.colour_map, high, bar)
        names = ["image", "its map", "its map, shuffled", "mean ink", "mean map", "mean map, shuffled"]
        panels = dict(zip(names, self.figure.panels, strict=True))
        return figure, line, Cells(panels, "row {}, column {}", (0, 0), {"": ([*single, ink[q.digit], *means], 5)})


def explained(target):
    """What a target says, in words."""
    return {"label": "the label", "predicted": "the answer"}.get(target, f"the digit {target}")


def _evenly(values, most):
    """At most so many of some values, the first and the last among them."""
    return tuple(values[n] for n in np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int))


def _axis(schema, name, values, label, about="", **options):
    """An axis with the help of its parameter, or of the field `about`."""
    return Axis(name, tuple(values), label, schema.model_fields[about or name].description, **options)
