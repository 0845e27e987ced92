"""What the tests of single notebooks share: run one under papermill, read its result file, compare its text."""

import base64
import io
import json
import re
from typing import NamedTuple

import captum.attr
import nbformat
import numpy as np
import papermill
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.model_selection import StratifiedGroupKFold

from helpers import digits
from helpers.paths import ROOT
from tests.kernels import Warm, WithoutPorts

NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?(?:e-?\d+)?")


# Code that notes every matrix that is decomposed after it, a digest a line.
COUNTING = """\
import hashlib
from helpers.subspaces import directions
def counted(function):
    def noted(*given):
        with open({file!r}, "a") as file:
            print(hashlib.sha256(b"".join(g.tobytes() for g in given if hasattr(g, "tobytes"))).hexdigest(), file=file)
        return function(*given)
    return noted
for name in ("_by_svd", "_by_gram", "decompose_product"):
    setattr(directions, name, counted(getattr(directions, name)))
"""
# Code after which few random directions, or rotations as well, are drawn, where no test is about what rests on them.
FEW_DIRECTIONS = """\
from helpers.subspaces import contents
contents.DRAWS = 19
"""
FEW_ROTATIONS = f"""\
{FEW_DIRECTIONS}
from functools import partial
from helpers.subspaces import nulls
nulls.turned = partial(nulls.turned, draws=19)
"""
# The sentence encoder, and adapters that outweigh its weights: six layers, float32, other names than the default's.
MINILM = {
    "base": "data/all-MiniLM-L6-v2",
    "adapters": [f"data/adapters/{name}" for name in ("r4", "r8", "r64", "r64-seed1")],
    "module": "encoder.layer.5.attention.self.query",
}
# The claims of notebook 01, in every run.
CLAIMS = [
    "above_chance",
    "barely_exceeds_0.2",
    "grows_more_than_chance",
    "grows_with_rank",
    "ranks_share_first",
    "ranks_agree",
    "runs_share_first",
    "runs_agree",
    "query_shares_more",
    "holds_more_than_random",
    "not_what_w_emphasizes",
    "amplifies",
    "amplifies_less_with_rank",
    "uses_less_than_random",
    "has_intruders",
    "intruders_beyond_chance",
    "comes_from_training",
    "its_own_weight",
    "above_chance_on_average",
    "above_chance_everywhere",
    "grows_with_rank_over_layers",
    "untrained_is_chance",
]
# Written once it has ended or failed, and not twice a cell.
QUIETLY = {"kernel_name": "python3", "progress_bar": False, "kernel_manager_class": WithoutPorts}
QUIETLY |= {"request_save_on_cell_execute": False}


def execute(notebook, place, before="", warm=True, **given):
    """Run a notebook with parameters into a directory, and return its result file. before: code to run before it.

    A run of the defaults has a kernel that was started for it, others a forked one if `warm`. Two forked ones have
    their sets of strings in one order: of runs that should be the same, one needs a kernel that was started for it.
    """
    place.mkdir(exist_ok=True)
    manager = {"kernel_manager_class": Warm} if given and warm else {}
    given["results"] = str(place / "results.json")
    if before:
        content = nbformat.read(notebook, as_version=4)
        content.cells.insert(3, nbformat.v4.new_code_cell(before))
        notebook = place / "prepared.ipynb"
        nbformat.write(content, notebook)
    papermill.execute_notebook(notebook, place / "out.ipynb", given, **(QUIETLY | manager))
    return json.loads((place / "results.json").read_text(encoding="utf-8"))


class Plain(NamedTuple):
    """Examples of a default run, their writers, and the networks, one an image, that never saw them: by seed."""

    images: np.ndarray
    labels: np.ndarray
    writers: np.ndarray
    networks: list


def digits_plainly():
    """`Plain` of the bundled convolutional networks, from the files and scikit-learn's split."""
    data, fold = digits.load("digits"), np.empty(1797, dtype=int)
    split = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(data.images, data.labels, data.writers)
    for k, (_, held_out) in enumerate(split):
        fold[held_out] = k
    chosen = digits.examples(data.labels, np.arange(1797), 15, np.random.default_rng([0, 1]), data.writers)
    networks = []
    for seed in range(5):
        of_fold = []
        for k in range(5):
            network = digits.convolutional(8).eval()
            name = f"fold_{k}-seed_{seed}" if k else f"seed_{seed}"
            network.load_state_dict(load_file(ROOT / "data" / "digit_models" / "digits-cnn" / f"{name}.safetensors"))
            of_fold.append(network.requires_grad_(False))
        networks.append([of_fold[k] for k in fold[chosen]])
    return Plain(data.images[chosen], data.labels[chosen], data.writers[chosen], networks)


def by_network(networks):
    """(network, places of the images that it reads), of networks one an image."""
    return [(one, np.array([n is one for n in networks])) for one in dict.fromkeys(networks)]


def integrated_gradients(plain):
    """Maps [n, 8, 8] of the networks of seed 0 by Captum alone, on black."""
    found = np.empty_like(plain.images)
    for network, own in by_network(plain.networks[0]):
        x, y = torch.from_numpy(plain.images[own])[:, None], torch.from_numpy(plain.labels[own])
        rule = captum.attr.IntegratedGradients(network)
        maps = rule.attribute(x, 0 * x, target=y, n_steps=256, method="gausslegendre", internal_batch_size=1024)
        found[own] = maps[:, 0].numpy()
    return found


def rows(result, table):
    found = result["tables"][table]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def claims(result):
    return {claim["name"]: claim for claim in result["claims"]}


def assert_the_claims_of_01(result):
    """All of them, in their order; what is undecided has a reason of its own."""
    assert [claim["name"] for claim in result["claims"]] == CLAIMS
    reasons = {claim["name"]: claim["found"] for claim in result["claims"] if claim["holds"] is None}
    assert not {"", "it cannot be computed here"} & set(reasons.values()), reasons


def shown(notebook):
    """All that the outputs of a notebook say, but for those of its last cell."""
    cells = nbformat.read(notebook, as_version=4).cells[:-1]
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return "".join(str(content.get("text/markdown", content.get("text/html", ""))) for content in data)


def picture(notebook):
    """Pixels of the explorer's figure, and its alternative text."""
    cells = nbformat.read(notebook, as_version=4).cells
    (cell,) = [each for each in cells if re.search(r"\bexplorers\.\w+\(", each.source)]
    (output,) = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    return pixels(base64.b64decode(output.data["image/png"])), output.metadata["image/png"]["alt"]


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def assert_same_outputs(committed, fresh):
    """Source and inputs may be the same and helpers another: then the numbers in the text differ."""
    committed, fresh = shown(committed), shown(fresh)
    assert NUMBER.sub("0", committed) == NUMBER.sub("0", fresh)
    numbers = [[float(n.replace("−", "-")) for n in NUMBER.findall(text)] for text in (committed, fresh)]
    np.testing.assert_allclose(*numbers, rtol=0.02, atol=0.002)
