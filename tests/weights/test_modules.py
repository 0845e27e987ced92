import pytest

from helpers.weights import modules

NAMES = [f"encoder.layer.{n}.attention.self.{kind}" for n in (0, 1, 5, 11) for kind in ("key", "query", "value")]


class Holder:
    def __init__(self, names):
        self.names = names

    def modules(self):
        return self.names

    def find(self, module):
        return modules.find(module, self.names, "holder")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("layer.1.attention.self.query", "encoder.layer.1.attention.self.query"),
        ("1.attention.self.query", "encoder.layer.1.attention.self.query"),
        ("bert.encoder.layer.5.attention.self.value", "encoder.layer.5.attention.self.value"),
        (NAMES[3], NAMES[3]),
        ("model.text.layer.5.attention.self.key", "encoder.layer.5.attention.self.key"),
    ],
)
def test_find_by_suffix_in_either_direction_with_whole_parts(wanted, found):
    assert modules.find(wanted, NAMES, "the model") == found


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("query", "'query' is ambiguous in the model: .*layer.0.*layer.1"),
        ("encoder.layer.5.attention.self.qery", "did you mean 'encoder.layer.5.attention.self.query'"),
        ("encoder.layer.7.attention.self.value", "not in the model, which has 12 modules; did you mean"),
        ("lm_head", "they are 'encoder.layer.0.attention.self.key'.*and 6 more"),
        ("elf.query", "not in the model"),
    ],
)
def test_find_refuses_and_lists(wanted, message):
    with pytest.raises(modules.NoSuchModule, match=message):
        modules.find(wanted, NAMES, "the model")


def test_common_keeps_the_first_ones_names():
    adapter = Holder(["bert." + name for name in NAMES])
    assert modules.common([adapter, Holder(NAMES[:2])]) == ["bert." + name for name in NAMES[:2]]


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
    names = ["h.0.attn.q", "h.1.attn.q", "h.1.attn.dense", "h.1.mlp.dense", "head", "h.1.expert.1.w"]
    assert modules.by_layer(names) == {
        (0, "q"): names[0],
        (1, "q"): names[1],
        (1, "h.attn.dense"): names[2],
        (1, "h.mlp.dense"): names[3],
        (0, "head"): names[4],
        (1, "w"): names[5],
    }
