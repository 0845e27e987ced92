"""The explorers of the notebooks: what they show is what the arithmetic gives, however the sliders got there."""

import re

import numpy as np
import pytest
import torch
import transformers
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from helpers import digits, parameters, subspaces
from helpers.digits import bundled, controls, grids, saliency
from helpers.show import explorers
from helpers.show.explore import Frozen
from helpers.subspaces import chance, haar
from tests.notebooks.running import MINILM
from tests.weights import building

NUMBER = r"(−?[\d.]+)"


@pytest.fixture(scope="module")
def inputs():
    return subspaces.Similarity(parameters.SubspaceSimilarity(**MINILM))


@pytest.fixture(scope="module")
def digits_of_a_run():
    return digits.Study(parameters.DigitSaliency(examples_per_digit=5))


@pytest.fixture(scope="module")
def atlas():
    given = {"base": MINILM["base"], "adapters": MINILM["adapters"][:2], "modules": "layer.[13].*"}
    return subspaces.ModelAtlas(parameters.ModelAtlas(**given, beside_base="", beside_adapters=[]))


@pytest.fixture(scope="module")
def together():
    given = {"base": MINILM["base"], "adapters": MINILM["adapters"][:3], "modules": "layer.[13].*"}
    return subspaces.AdaptersTogether(parameters.AdaptersTogether(**given, beside_base="", beside_adapters=[]))


@pytest.fixture(params=["01", "02", "03", "05", "06"])
def build(request, inputs, digits_of_a_run, atlas, together):
    """A function that gives a new explorer of a notebook."""
    return {
        "01": lambda: explorers.subspace_similarity(inputs),
        "02": lambda: explorers.random_baselines(parameters.RandomBaselines(draws=200)),
        "03": lambda: explorers.digit_saliency(digits_of_a_run),
        "05": lambda: explorers.model_atlas(atlas),
        "06": lambda: explorers.adapters_together(together),
    }[request.param]


def read(line, what):
    return float(re.search(what, line)[1].replace("−", "-"))


def test_however_it_got_there_the_picture_is_that_of_a_new_figure(build):
    """Random states, one after another in one explorer, and each alone in a new one."""
    rng, walker = np.random.default_rng(5), build()
    good = 0
    for _ in range(8):
        changes = {}
        for axis in walker.axes:
            places = sorted(rng.integers(len(axis.values), size=2))
            names = axis.name if isinstance(axis.name, tuple) else (axis.name,)
            changes |= {name: axis.values[place] for name, place in zip(names, places, strict=False)}
        try:
            picture, line = walker.picture(**changes)
        except ValueError as error:
            with pytest.raises(ValueError, match=re.escape(str(error))):
                build().picture(**changes)
            continue
        fresh, same = build().picture(**changes)
        assert line == same
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(fresh))
        good += 1
    assert good >= 4


def test_sliders_parameters_and_schema_are_one_set_of_names(build):
    """layer and projection are two sliders of one parameter; each value is legal, or refused in a sentence."""
    explorer = build()
    names = {name for axis in explorer.axes for name in ([axis.name] if isinstance(axis.name, str) else axis.name)}
    schemas = (parameters.SubspaceSimilarity, parameters.RandomBaselines, parameters.DigitSaliency)
    own = names - {"layer", "projection"}  # notebook 05 has no others, and 06 the pair
    walked = {frozenset(): parameters.ModelAtlas, frozenset({"pair"}): parameters.AdaptersTogether}
    schema = walked.get(frozenset(own)) or next(each for each in schemas if own <= each.model_fields.keys())
    place = "modules" if "modules" in schema.model_fields else "module"
    for axis in explorer.axes:
        assert len(set(map(axis.word, axis.values))) == len(axis.values), axis.label
        fields = {"layer": place, "projection": place, "pair": "adapters"}
        moved = [axis.name] if isinstance(axis.name, str) else axis.name
        assert axis.help in [schema.model_fields[fields.get(name, name)].description for name in moved]
        for name in moved:
            field = schema.model_fields[fields.get(name, name)]
            assert explorer.start[name] in axis.values
            if name in schema.model_fields:
                kind = TypeAdapter(field.rebuild_annotation())
                for value in axis.values:
                    kind.validate_python(list(value) if isinstance(value, tuple) else value)


def test_the_line_of_01_reads_phi_chance_and_z(inputs):
    explorer = explorers.subspace_similarity(inputs)
    module = "encoder.layer.2.attention.self.value"
    _, line = explorer.picture(layer=2, projection="value", factor="BA", side="left", read_i=20, read_j=8)
    left_w = np.linalg.svd(inputs.base.weight(module))[0]
    for name, source in zip(("8", "64"), inputs.updates[1:3], strict=True):
        left = np.linalg.svd(source.delta(module))[0]
        phi = np.linalg.norm(left_w[:, :20].T @ left[:, :8]) ** 2 / 8
        assert read(line, rf"φ = .*?{NUMBER} \(r = {name}\)") == pytest.approx(phi, abs=6e-5)
        z = (phi - 20 / 384) / chance.variance(20, 8, 384) ** 0.5
        assert read(line, rf"z = .*?{NUMBER} \(r = {name}\)") == pytest.approx(z, abs=0.06)
    assert "(r = 4)" not in line  # it has no eighth direction
    assert read(line, rf"chance {NUMBER} ±") == pytest.approx(20 / 384, abs=6e-5)
    assert line.startswith(module)


def test_the_three_quantities_of_01_come_from_one_grid(inputs):
    """Each against numpy on the weight and the adapter's A, at one cell of one panel."""
    module = inputs.module.replace("layer.5", "layer.1")
    u, v = (np.linalg.svd(m)[2].T for m in (inputs.base.weight(module), inputs.updates[1].update(module).a))
    phi = np.linalg.norm(u[:, :20].T @ v[:, :3]) ** 2 / 3
    wanted = {"phi": phi, "excess": phi - 20 / 384, "z": (phi - 20 / 384) / chance.variance(20, 3, 384) ** 0.5}
    work = explorers._Similarity(inputs)
    explorer = explorers.subspace_similarity(inputs)
    for quantity, value in wanted.items():
        figure, _, cells = work.draw(**explorer.start | {"layer": 1, "quantity": quantity})
        shown = [axes.images[0].get_array()[20 - inputs.first_i, 2] for axes in figure.axes if axes.images]
        assert shown[1] == pytest.approx(value, abs=1e-6)
        numbers = {name: grids[1][20 - inputs.first_i, 2] for name, (grids, _) in cells.values.items()}
        assert numbers["φ"] == pytest.approx(phi, abs=1e-6)
        assert numbers["chance"] == pytest.approx(20 / 384)
        assert numbers["z"] == pytest.approx(wanted["z"], abs=1e-4)


def test_without_a_base_there_is_nothing_to_explore():
    study = subspaces.Similarity(parameters.SubspaceSimilarity(**MINILM | {"base": ""}))
    assert explorers.subspace_similarity(study).reason == "no base is given"


def test_what_01_cannot_show_is_a_sentence(inputs):
    explorer = explorers.subspace_similarity(inputs)
    with pytest.raises(ValueError, match=r"colour_low is 0\.4 and colour_high is 0\.2"):
        explorer.picture(colour_low=0.4, colour_high=0.2)
    for read_i, i in ((300, 38), (1, 14), (0, 14), (20, 20)):  # held within the rows shown
        assert f"At i = {i}, j = 4" in explorer.picture(read_i=read_i)[1]


def someones(make_base, make_adapter, rng, shapes, adapted, module):
    """Explorer of a model with weights of these shapes, and an adapter of rank 2 for the last of those adapted."""
    base = make_base({name: rng.standard_normal(shape) for name, shape in shapes.items()})
    (out, inputs), name = shapes[adapted[-1]], adapted[-1]
    adapter = make_adapter(module=name, a=rng.standard_normal((2, inputs)), b=rng.standard_normal((out, 2)))
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    for name in adapted[:-1]:
        (out, inputs) = shapes[name]
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.from_numpy(rng.standard_normal((2, inputs)))
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.from_numpy(rng.standard_normal((out, 2)))
    save_file(tensors, file)
    p = parameters.SubspaceSimilarity(base=str(base), adapters=[str(adapter)], module=module)
    return explorers.subspace_similarity(subspaces.Similarity(p))


def test_01_offers_every_module_that_all_adapters_have(make_base, make_adapter, rng):
    """Layers with different projections and sizes, and a module outside of any: all can be gone to, some are not."""
    shapes = dict.fromkeys(["layers.0.q_proj", "layers.1.q_proj", "layers.1.o_proj"], (40, 40))
    shapes["layers.1.up_proj"], shapes["classifier.dense"] = (20, 40), (3, 40)
    adapted = [*list(shapes)[1:], "layers.0.q_proj"]
    explorer = someones(make_base, make_adapter, rng, shapes, adapted, "layers.1.q_proj")
    frozen = Frozen(**explorer.frozen())
    assert [axis.words for axis in frozen.axes[:2]] == [["0", "1"], ["dense", "q_proj", "o_proj", "up_proj"]]
    assert "layer 0 has no o_proj that all adapters and the model have" in frozen.lines
    for place, name in {(1, "o_proj"): "layers.1.o_proj", (0, "q_proj"): "layers.0.q_proj"}.items():
        assert explorer.picture(layer=place[0], projection=place[1])[1].startswith(f"{name}, factor A")
    # the window chosen for one module does not bind another
    assert "At i = 1, j = 1" in explorer.picture(layer=0, projection="dense")[1]
    assert "layers.1.up_proj" in explorer.picture(projection="up_proj", factor="BA", side="left")[1]


def test_01_takes_a_module_that_model_and_adapter_know_by_other_names(make_base, make_adapter, rng):
    base = make_base({"model.q_proj": rng.standard_normal((40, 40))})
    adapter = make_adapter(module="backbone.q_proj", a=rng.standard_normal((2, 40)), b=rng.standard_normal((40, 2)))
    p = parameters.SubspaceSimilarity(base=str(base), adapters=[str(adapter)], module="q_proj")
    explorer = explorers.subspace_similarity(subspaces.Similarity(p))
    assert not {"layer", "projection", "adapters"} & {axis.name for axis in explorer.axes}  # one of each
    assert explorer.picture()[1].startswith("model.q_proj, factor A")


def test_a_page_of_a_deep_model_holds_layers_from_end_to_end():
    explorer = explorers.subspace_similarity(subspaces.Similarity(parameters.SubspaceSimilarity()))
    axes = {axis.name: axis for axis in explorer.axes}
    assert list(axes["layer"].values) == list(range(30))
    assert axes["layer"].held(explorer.start) == (0, 7, 14, 22, 29)
    assert list(axes["projection"].values) == ["q_proj", "v_proj"]


def test_a_page_of_01_does_not_decompose_every_large_weight(make_base, make_adapter, rng, monkeypatch):
    shapes = {f"layers.{n}.q_proj": (40, 40) for n in range(3)}
    for work, layers in ((40**3 * 3 + 1, ["0", "1", "2"]), (40**3 * 3, None)):
        monkeypatch.setattr(explorers, "WORK", work)
        place = f"base{work}"
        base = make_base({name: rng.standard_normal(shape) for name, shape in shapes.items()}, directory=place)
        adapter = make_adapter(
            module="layers.0.q_proj",
            directory=f"adapter{work}",
            a=rng.standard_normal((2, 40)),
            b=rng.standard_normal((40, 2)),
        )
        file = adapter / "adapter_model.safetensors"
        tensors = load_file(file)
        tensors |= {key.replace("s.0.", f"s.{n}."): value.clone() for key, value in tensors.items() for n in (1, 2)}
        save_file(tensors, file)
        p = parameters.SubspaceSimilarity(base=str(base), adapters=[str(adapter)], module="layers.1.q_proj")
        explorer = explorers.subspace_similarity(subspaces.Similarity(p))
        held = {axis.name: axis.held(explorer.start) for axis in explorer.axes}
        assert list(map(str, held["layer"])) == (layers or [])


def test_the_line_of_02_agrees_with_the_laws_it_draws():
    explorer = explorers.random_baselines(parameters.RandomBaselines(draws=4000))
    line = explorer.picture(dimension=256, rank_i=24, rank_j=8)[1]
    phi = haar.random_phi(24, 8, 256, 4000, np.random.default_rng([0, 2, 24, 8]))
    assert read(line, rf"draws {NUMBER} ±") == pytest.approx(phi.mean(), abs=6e-5)
    assert read(line, rf"exceeds {NUMBER}\.") == pytest.approx(np.quantile(phi, 0.95), rel=0.01)
    noticed = chance.detectable_phi(24, 8, 256, 0.05, 0.9, 4000, np.random.default_rng(7)) / (24 / 256)
    assert read(line, rf"{NUMBER} \(5 % at one cell\)") == pytest.approx(noticed, rel=0.02)
    with pytest.raises(ValueError, match="rank_i is 256 and dimension is 16"):
        explorer.picture(dimension=16, rank_i=256)


@pytest.mark.parametrize("target", ["label", "8"])
def test_the_line_of_03_compares_a_network_with_its_shuffled_copy(digits_of_a_run, target):
    study = digits_of_a_run
    images, labels = study.images, study.labels
    explorer = explorers.digit_saliency(study)
    given = {"digit": 7, "example": 2, "method": "gradient", "randomised_layers": 2, "target": target}
    line = explorer.picture(**given, rows=8, columns=8)[1]
    asked, maps = labels if target == "label" else np.full(len(labels), 8), [np.empty_like(images) for _ in range(2)]
    n = np.flatnonzero(labels == 7)[2]
    for fold, network in enumerate(bundled.by_fold("digits", "cnn", ["seed_0"])["seed_0"]):
        names = [name for layer in controls.layers(network)[:2] for name in layer]
        copy, own = controls.randomise(network, 0, names), study.fold == fold
        for found, each in zip(maps, (network, copy), strict=True):
            found[own] = saliency.attribute(each, images[own], asked[own], "gradient")
        if own[n]:
            answer = digits.logits(copy, images[[n]]).argmax()
    own, copy = maps
    for what, one, other in (("correlate by", own, copy), ("signs by", np.abs(own), np.abs(copy))):
        wanted = controls.rank_similarity(one[[n]], other[[n]])[0]
        assert read(line, rf"{what} {NUMBER}[,.]") == pytest.approx(wanted, abs=0.006)
    joint = [grids.joint_normalise(grids.class_means(np.abs(each), labels))[7] for each in maps]
    assert read(line, rf"cells have {NUMBER} and") == pytest.approx(joint[0].max(), abs=6e-5)
    assert read(line, rf"and {NUMBER}\.$") == pytest.approx(joint[1].max(), abs=6e-5)
    assert f"with 2 of 4 layers shuffled as {answer} " in line
    assert f"for the {'label' if target == 'label' else 'digit 8'}," in line


def test_nothing_shuffled_is_the_network_itself_and_more_than_all_is_all(digits_of_a_run):
    explorer = explorers.digit_saliency(digits_of_a_run)
    assert "correlate by 1.00, without their signs by 1.00" in explorer.picture(randomised_layers=0)[1]
    assert "have 100 % in common" in explorer.picture(randomised_layers=0)[1]
    assert explorer.picture(randomised_layers=4)[1] == explorer.picture(randomised_layers=16)[1]


def test_a_method_that_a_network_lacks_is_a_sentence(digits_of_a_run):
    explorer = explorers.digit_saliency(digits_of_a_run)
    with pytest.raises(ValueError, match="attention_rollout needs"):
        explorer.picture(method="attention_rollout")
    assert "attention rollout" in explorer.picture(method="attention_rollout", model="transformer")[1]


def test_the_sliders_of_a_head_go_to_any_head_of_any_layer(tmp_path):
    """Synthetic: a NeoX, whose fused projection interleaves by head; a page has the projection at rest only."""
    torch.manual_seed(2)
    sizes = {**building.TEXT, "hidden_size": 64, "num_hidden_layers": 2}
    model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes))
    model.save_pretrained(tmp_path / "base")
    adapted = building.adapt(model, tmp_path / "lora", target_modules=["query_key_value"])
    module = "gpt_neox.layers.{}.attention.query_key_value{}"
    p = parameters.SubspaceSimilarity(
        base=str(tmp_path / "base"), adapters=[str(tmp_path / "lora")], module=module.format(0, "[q, head 1]"),
        factor="BA",
    )  # fmt: skip
    explorer = explorers.subspace_similarity(subspaces.Similarity(p))
    axes = {axis.name: axis for axis in explorer.axes}
    every = {f"query_key_value[{part}, head {head}]" for part in "qkv" for head in range(4)}
    assert set(axes["projection"].values) == every and axes["projection"].held(explorer.start) == ()
    _, line = explorer.picture(layer=1, projection="query_key_value[v, head 3]", read_i=5, read_j=2)
    weight, delta = building.merged(model, adapted)[module.format(1, "")]
    own = slice(3 * 48 + 32, 3 * 48 + 48)
    u, v = (np.linalg.svd(each[own])[2].T for each in (weight, delta))
    phi = np.linalg.norm(u[:, :5].T @ v[:, :2]) ** 2 / 2
    assert line.startswith(module.format(1, "[v, head 3]")) and read(line, rf"φ = {NUMBER}") == pytest.approx(
        phi, abs=6e-5
    )
