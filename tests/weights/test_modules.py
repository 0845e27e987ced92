import pytest

from helpers.weights import match, modules
from tests.weights.building import refused

NAMES = [f"encoder.layer.{n}.attention.self.{kind}" for n in (0, 1, 5, 11) for kind in ("key", "query", "value")]


class Holder:
    """Modules of these names; shapes by the first name that one begins with, else (4, 4)."""

    def __init__(self, names, shapes=()):
        self.names, self.shapes, self.label = names, dict(shapes), "holder"

    def modules(self):
        return self.names

    def shape(self, module):
        return next((shape for start, shape in self.shapes.items() if module.startswith(start)), (4, 4))


def layers(tower, numbers=2, ends=("self_attn.q_proj", "self_attn.v_proj")):
    return [f"{tower}.{n}.{end}" for n in range(numbers) for end in ends]


def spread(towers):
    return [name for tower in towers for name in layers(tower)]


@pytest.mark.parametrize("wanted", ["layer.1.attention.self.query", "1.attention.self.query", NAMES[4]])
def test_find_by_suffix_in_whole_parts(wanted):
    assert modules.find(wanted, NAMES, "the model") == "encoder.layer.1.attention.self.query"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("query", ["'query' is ambiguous in the model", "layer.0", "layer.1"]),
        ("encoder.layer.5.attention.self.qery", ["did you mean 'encoder.layer.5.attention.self.query'"]),
        ("encoder.layer.7.attention.self.value", ["not in the model, which has 12 modules; did you mean"]),
        ("lm_head", ["they are 'encoder.layer.0.attention.self.key'", "and 6 more"]),
        ("elf.query", ["not in the model"]),
        ("decoder.layer.1.attention.self.query", ["not in the model"]),
        ("q\x1b[31m\nproj", ["not in the model"]),
    ],
)
def test_find_refuses_and_lists(wanted, words):
    refused(lambda: modules.find(wanted, NAMES, "the model"), *words)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("model.layers", "layers"),
        ("layers", "model.layers"),
        ("layers", "base_model.model.model.layers"),
        ("encoder.layer", "bert.encoder.layer"),
        ("language_model.model.layers", "model.language_model.layers"),
        ("model.layers", "model.language_model.layers"),
        ("visual.blocks", "model.visual.blocks"),
        ("decoder.layers", "model.decoder.layers"),
    ],
)
def test_towers_match_under_another_prefix(ours, theirs):
    pairs = match(Holder([*layers(ours, 3), "lm_head"]), Holder(layers(theirs, 2)))
    assert pairs == dict(zip(layers(ours, 2), layers(theirs, 2), strict=True))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        # Two towers, each under another name; the one of the text is nobody else's.
        (
            ["language_model.model.layers", "vision_tower.vision_model.encoder.layers"],
            ["model.language_model.layers", "model.vision_tower.vision_model.encoder.layers"],
            {0: 0, 1: 1},
        ),
        (["model.layers", "visual.blocks"], ["model.language_model.layers", "model.visual.blocks"], {0: 0, 1: 1}),
        (["model.encoder.layers", "model.decoder.layers"], ["model.decoder.layers"], {1: 0}),
        (["encoder.block", "decoder.block"], ["encoder.block", "decoder.block"], {0: 0, 1: 1}),
        (["encoder.encoder.layer", "decoder.bert.encoder.layer"], ["decoder.bert.encoder.layer"], {1: 0}),
        (["text_model.encoder.layers", "vision_model.encoder.layers"], ["vision_model.encoder.layers"], {1: 0}),
        # An exact name keeps others away from its tower.
        (["model.layers", "visual.layers"], ["model.layers", "mtp.layers"], {0: 0}),
    ],
)
def test_each_tower_has_its_own(ours, theirs, expected):
    pairs = match(Holder(spread(ours)), Holder(spread(theirs)))
    assert pairs == {o: t for n, m in expected.items() for o, t in zip(layers(ours[n]), layers(theirs[m]), strict=True)}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (["model.encoder.layers", "model.decoder.layers"], ["layers"]),
        (["encoder.encoder.layer", "decoder.bert.encoder.layer"], ["encoder.layer"]),
        (["text_model.encoder.layers", "vision_model.encoder.layers"], ["encoder.layers"]),
        (["layers"], ["model.encoder.layers", "model.decoder.layers"]),
        (["encoder.layer"], ["encoder.encoder.layer", "decoder.bert.encoder.layer"]),
    ],
)
def test_towers_that_fit_equally_are_refused_with_both_sides(ours, theirs):
    action = lambda: match(Holder(spread(ours)), Holder(spread(theirs)))  # noqa: E731
    refused(action, "more than one way", *ours, *theirs)


def test_shapes_and_numbers_of_layers_tell_towers_apart():
    names = layers("text_model.encoder.layers") + layers("vision_model.encoder.layers")
    base = Holder(names, {"vision_model": (6, 6)})
    expected = dict(zip(names[:4], layers("encoder.layers"), strict=True))
    assert match(base, Holder(layers("encoder.layers"))) == expected
    deeper = Holder(layers("vision.layers", 2) + layers("text.layers", 3))
    assert set(match(deeper, Holder(layers("layers", 3)))) == set(layers("text.layers", 3))


def test_modules_of_another_tower_do_not_match():
    encoder, decoder = (Holder(layers(f"model.{part}.layers")) for part in ("encoder", "decoder"))
    refused(lambda: match(encoder, decoder), "no module of")
    assert len(match(Holder(layers("model.layers", 2)), Holder(layers("model.layers", 9)))) == 4


@pytest.mark.parametrize(("ours", "theirs"), [("lm_head", "lm_head"), ("model.lm_head", "language_model.lm_head")])
def test_a_resized_module_still_matches_so_that_reading_it_can_say_so(ours, theirs):
    assert match(Holder([ours]), Holder([theirs], {theirs: (9, 4)})) == {ours: theirs}


def test_a_resized_head_under_another_prefix_matches_beside_layers_that_fit():
    ours, theirs = ([f"{tower}.0.q", head] for tower, head in (("a.layers", "a.lm_head"), ("layers", "lm_head")))
    assert match(Holder(ours), Holder(theirs, {"lm_head": (9, 4)})) == dict(zip(ours, theirs, strict=True))
    twice = [*ours, "b.lm_head"]
    assert match(Holder(twice), Holder(theirs, {"lm_head": (9, 4)})) == {ours[0]: theirs[0]}


def test_modules_without_a_number_match_one_to_one():
    ours = ["pooler.dense", "classifier.dense", "language_model.lm_head"]
    theirs = ["bert.pooler.dense", "classifier.dense", "lm_head"]
    assert match(Holder(ours), Holder(theirs)) == dict(zip(ours, theirs, strict=True))


def test_wrappers_parts_say_nothing():
    for name in ("_orig_mod.{}", "module.{}", "base_model.model.{}", "module.base_model.model.{}", "{}.base_layer"):
        assert modules.plain(name.format("model.layers.0.q")) == "model.layers.0.q"


def test_roles_and_partners():
    assert [modules.role(name) for name in ("h.0.attn.q_proj", "x.value", "mlp.down_proj", "k")] == ["q", "v", "", "k"]
    assert modules.query_and_value(NAMES[1], NAMES) == [NAMES[1], NAMES[2]]
    assert modules.query_and_value(NAMES[2], NAMES) == [NAMES[2], NAMES[1]]
    assert modules.query_and_value(NAMES[1], NAMES[:2]) == [NAMES[1]]


def test_short_names_hold_nothing_that_acts_as_markup():
    assert modules.short_name("h.0.attn.q_proj") == "q_proj"
    assert modules.short_name("h.0.<img src=x>$`*[") == "·img·src·x·····"


def test_every_layer_counts_by_the_first_number_only():
    assert list(modules.every_layer(NAMES[1], NAMES)) == [0, 1, 5, 11]
    assert modules.every_layer("head.dense", NAMES) == {0: "head.dense"}
    experts = ["h.0.expert.0.w", "h.1.expert.0.w", "h.1.expert.1.w", "hx0.expert.0.w"]
    assert modules.every_layer("h.0.expert.0.w", experts) == {0: "h.0.expert.0.w", 1: "h.1.expert.0.w"}


def test_by_layer_keeps_every_name_apart():
    places = {
        (0, "q"): "h.0.attn.q",
        (1, "q"): "h.1.attn.q",
        (1, "h.attn.dense"): "h.1.attn.dense",
        (1, "h.mlp.dense"): "h.1.mlp.dense",
        (0, "head"): "head",
        (1, "w"): "h.1.expert.1.w",
    }
    assert modules.by_layer(places.values()) == places
