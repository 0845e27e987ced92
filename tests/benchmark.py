"""`make bench`: speeds as ratios against the alternative, in the same run. Nothing here is asserted."""

import asyncio
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import papermill
import seaborn as sns
import torch
import transformers
from captum.attr import IntegratedGradients
from IPython.core.pylabtools import print_figure
from ipywidgets import IntSlider, interactive
from matplotlib import pyplot as plt
from safetensors.torch import save_file
from scipy import stats
from torch import nn

from helpers import digits, parameters, subspaces, weights
from helpers.digits import batches, bundled, controls, saliency
from helpers.paths import ROOT
from helpers.press import run, sweep
from helpers.show import explorers
from helpers.subspaces import chance, directions, haar
from helpers.subspaces.intruders import leading_cosines
from helpers.training import speed
from tests.notebooks import running


def best(action, repeats=5):
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def double_loop(u, v):
    """φ one cell at a time, as the definition has it."""
    return [
        [np.linalg.norm(u[:, :i].T @ v[:, :j]) ** 2 / min(i, j) for j in range(1, v.shape[1] + 1)]
        for i in range(1, u.shape[1] + 1)
    ]


def both_by_qr(i, j, d, draws, rng):
    """φ of random pairs, both subspaces drawn in full."""
    sides = ((haar.random_directions(d, i, rng), haar.random_directions(d, j, rng)) for _ in range(draws))
    return [np.linalg.norm(u.T @ v) ** 2 / min(i, j) for u, v in sides]


def show(what, ours, theirs, against):
    times = f"{ours * 1e3:9.2f} ms; {against} {theirs * 1e3:10.2f} ms"
    print(f"{what}: {times}; ratio {ours / theirs:.5f} (1 : {theirs / ours:,.0f})")


def attributions(what, networks, images, labels, single):
    """Integrated gradients of several networks: ours, Captum by its best batch, and image by image, `single` of them.

    Both take 32 steps.
    """
    x, y = torch.from_numpy(images)[:, None], torch.from_numpy(labels)

    def ours():
        for network in networks:
            saliency.attribute(network, images, labels, "integrated_gradients", steps=32)

    def captum(count, step, rows=None):
        for network in networks:
            rule = IntegratedGradients(network)
            for first in range(0, count, step):
                part = slice(first, min(first + step, count))
                more = {"n_steps": 32, "method": "gausslegendre", "internal_batch_size": rows}
                rule.attribute(x[part], 0 * x[part], target=y[part], **more)

    ways = {f"{32 * step} rows": (step, None) for step in (1, 2, 4, 8, 16, 32)}
    ways |= {f"internal_batch_size {rows}": (rows, rows) for rows in (64, 256, 1024)}
    times = dict.fromkeys(["ours", *ways], np.inf)
    for _ in range(3):  # in turn, so that what else the machine does meets all of them
        times["ours"] = min(times["ours"], best(ours, 1))
        for way, (step, rows) in ways.items():
            times[way] = min(times[way], best(lambda s=step, r=rows: captum(len(images), s, r), 1))
    seconds = times.pop("ours")
    way = min(times, key=times.get)
    show(what, seconds, times[way], f"Captum at its best of {len(times)} ways, {way}")
    alone = best(lambda: captum(single, 1), 1) * len(images) / single
    show(what, seconds, alone, f"image by image ({single} timed)")


def all_methods(what, network, images, labels):
    """Every method that the network has a place for, by our rule and with 1,024 rows in a pass."""
    options = {"expected_gradients": {"background": images[:20]}}
    found = saliency.explain(network, images[:2], labels[:2], saliency.METHODS, options)[0]
    times = {method: [np.inf, np.inf] for method in found}
    for _ in range(2):
        for method, seconds in times.items():
            for place, most in enumerate((batches.BYTES, 2**60)):
                with mock.patch.object(batches, "BYTES", most):
                    given = images, labels, method
                    spent = best(lambda g=given, m=method: saliency.attribute(network, *g, **options.get(m, {})), 1)
                seconds[place] = min(seconds[place], spent)
    ours, theirs = np.sum([*times.values()], 0)
    show(f"{what}, {len(found)} methods", ours, theirs, "1,024 rows in a pass")


def exported(size):
    """A saved program of 0.4 M parameters, with random weights."""
    torch.manual_seed(0)
    inside, width = (size // 4) ** 2 * 64, 400_000 // ((size // 4) ** 2 * 64)
    layers = nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()
    network = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(inside, width), nn.ReLU())
    network = nn.Sequential(network, nn.Linear(width, 10)).eval().requires_grad_(False)
    shapes = ({0: torch.export.Dim("n")},)
    return torch.export.export(network, (torch.rand(3, 1, size, size),), dynamic_shapes=shapes).module()


def maps():
    """Attributions at 8 × 8 and 28 × 28, of a bundled network and of a saved program."""
    for name, many, few, single in (("digits", 1797, 100, 100), ("mnist5k", 50, 50, 10)):
        data, network = digits.load(name), bundled.by_seed(name, "cnn")["seed_0"]
        images, labels = (part[:: len(data.images) // many] for part in data[:2])
        size = images.shape[-1]
        program = exported(size).requires_grad_(False)
        for told, each, count in (("cnn", network, many), ("random program of 0.4 M parameters", program, few)):
            given = images[:count].copy(), labels[:count].copy()
            what = f"{told}, {count} images of {size} × {size}"
            attributions(f"integrated_gradients, {what}", [each], *given, single)
            all_methods(what, each, *(part[:few] for part in given))
    network, data = bundled.by_seed("digits", "cnn")["seed_0"], digits.load("digits")
    copies = [controls.randomise(network, seed) for seed in range(99)]
    attributions("integrated_gradients, null of 99 networks, 30 images", copies, data.images[:30], data.labels[:30], 3)


def main():
    rng = np.random.default_rng(0)
    u, v = haar.random_directions(12288, 1200, rng), haar.random_directions(12288, 64, rng)
    ours, product = best(lambda: subspaces.similarity_grid(u, v)), best(lambda: u.T @ v)
    show("similarity_grid, d = 12288, I = 1200, J = 64 ", ours, product, "the matrix product alone")

    u, v = haar.random_directions(384, 384, rng), haar.random_directions(384, 384, rng)
    ours, loop = best(lambda: subspaces.similarity_grid(u, v), 20), best(lambda: double_loop(u, v), 1)
    show("similarity_grid, d = I = J = 384             ", ours, loop, "the double loop over (i, j) ")
    ours, loop = best(lambda: subspaces.similarity_grid(u, v[:, :64]), 50), best(lambda: double_loop(u, v[:, :64]), 1)
    show("similarity_grid, d = I = 384, J = 64         ", ours, loop, "the double loop over (i, j) ")

    b, a = rng.standard_normal((2048, 64)), rng.standard_normal((64, 2048))
    ours, full = best(lambda: subspaces.low_rank_directions(b, a)), best(lambda: np.linalg.svd(b @ a), 1)
    show("low_rank_directions, d = 2048, r = 64        ", ours, full, "the product and its full SVD")

    w = rng.standard_normal((2048, 2048)) * np.linspace(2, 1, 2048)
    ours, full = best(lambda: subspaces.top_directions(w, 200), 2), best(lambda: np.linalg.svd(w), 1)
    show("top_directions, d = 2048, k = 200            ", ours, full, "a full SVD                  ")

    draws, shape = 10_000, (50, 8, 1000)
    ours, theirs = best(lambda: haar.random_phi(*shape, draws, rng)), best(lambda: both_by_qr(*shape, 100, rng), 2)
    show(
        "random_phi, 10,000 draws, d = 1000, i = 50, j = 8", ours, theirs * draws / 100, "both sides by QR (100 timed)"
    )

    rows, columns = np.ogrid[1:1201, 1:65]
    phi = chance.mean_grid(1200, 64, 12288) * 1.02
    ours = best(lambda: chance.log_tail_probability(phi, rows, columns, 12288), 3)
    larger = np.maximum(rows, columns)
    theirs = best(lambda: stats.beta.logsf(phi, larger / 2, (12288 - larger) / 2), 1)
    show("log_tail_probability, d = 12288, 1200 × 64   ", ours, theirs, "scipy's beta.logsf, which underflows")

    large_directions()
    maps()
    reading()
    decompositions()
    intruders()
    atlas()
    atlas_of_a_large_model()
    explorer()
    runner()


OURS = """
from helpers import weights
weight = weights.open_base({place!r}).weight("layers.3.self_attn.q_proj")
"""
THEIRS = """
import transformers
model = transformers.AutoModel.from_pretrained({place!r})
weight = model.get_parameter("layers.3.self_attn.q_proj.weight").detach().float().numpy()
"""
SPENT = """
import re, time
start = time.perf_counter()
{work}
peak = int(re.search("VmHWM: *([0-9]+)", open("/proc/self/status").read().expandtabs(1))[1]) / 2**10
print(weight.shape, float(abs(weight).sum(dtype="f8")), time.perf_counter() - start, peak, sep=";")
"""


def reading():
    """One 4,096 × 4,096 weight of a model of 4 GB, in processes of their own, imports included; pages are cached."""
    size = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 10}
    with tempfile.TemporaryDirectory() as place:
        config = transformers.LlamaConfig(**size, vocab_size=100, dtype="bfloat16", architectures=["LlamaModel"])
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in transformers.LlamaModel(config).state_dict().items()}
        config.save_pretrained(place)
        tensors = {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
        save_file(tensors, Path(place, "model.safetensors"), metadata={"format": "pt"})
        size = sum(tensor.nbytes for tensor in tensors.values()) / 1e9
        del tensors
        told = []
        for work in (OURS, THEIRS):
            code = SPENT.format(work=work.format(place=place))
            runs = [
                subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, cwd=ROOT
                )
                for _ in range(2)
            ]
            told.append(min((found.stdout.strip().split(";") for found in runs), key=lambda found: float(found[2])))
        assert told[0][:2] == told[1][:2]
        (ours, own), (theirs, other) = ([float(number) for number in found[2:]] for found in told)
    show(f"one 4096² weight of a model of {size:.1f} GB      ", ours, theirs, "transformers' loading of the model")
    print(f"    at most {own:,.0f} MB of memory, of which the weight is 67; transformers {other:,.0f} MB")


FORGETTING = """
import weakref
from helpers.subspaces import inputs
inputs._memory = type("Forgetful", (weakref.WeakKeyDictionary,), {"setdefault": lambda *_: {}})()
"""


def decompositions():
    """Notebook 01 with the memory of what was decomposed, and without it."""
    notebook = ROOT / "notebooks" / "01_subspace_similarity.ipynb"
    with tempfile.TemporaryDirectory() as place:
        found = []
        for name, more in (("remembering", ""), ("forgetting", FORGETTING)):
            seen = Path(place, name)
            code = running.COUNTING.format(file=str(seen)) + more
            out = Path(place, f"{name}.run")
            seconds = best(lambda out=out, code=code: running.execute(notebook, out, before=code), 1)
            found.append((seconds, seen.read_text(encoding="utf-8").split()))
    (ours, once), (theirs, again) = found
    show("notebook 01, every matrix decomposed once    ", ours, theirs, "decomposed whenever asked for")
    print(f"    {len(once)} decompositions of {len(set(once))} matrices; without memory {len(again)}")


LARGEST = """
import numpy as np
from helpers.subspaces import decompose
from threadpoolctl import threadpool_limits
matrix = np.load({place!r} + "/matrix.npy")
with threadpool_limits({threads}):
    start = time.perf_counter()
    found = decompose(matrix, {k})
    spent = time.perf_counter() - start
np.save({place!r} + "/right.npy", found.right)
peak = int(re.search("VmHWM: *([0-9]+)", open("/proc/self/status").read().expandtabs(1))[1]) * 2**10
print(spent, peak / matrix.nbytes, found.errors({k}).max())
"""


def large_directions(threads=2):
    """Leading directions of synthetic large matrices against every other method, at the same error of φ.

    The error is the worst case: the sine of the largest angle between what was found and what is known.
    """
    print(f"leading directions on {threads} threads, {speed.machine()}")
    with speed.threads(threads):
        rows = list(speed.against_error(4096, 400, 1e-3, repeats=3))
        matrix = speed.known(4096, 1, 0).matrix
        double = best(lambda: np.linalg.svd(matrix, full_matrices=False), 1)
    ours, *others = rows
    print(f"    first 400 of 4096²: {ours['seconds']:.2f} s, φ off by {ours['error']:.1e}, bound {ours['bound']:.1e}")
    for row in others:
        told = f"{row['method']}, {row['iterations']} iterations, φ off by {row['error']:.1e}"
        show("top 400 of 4096²", ours["seconds"], row["seconds"], told)
    show("top 400 of 4096²", ours["seconds"], double, "numpy's SVD, float64")
    whole = next(row["seconds"] for row in rows if row["method"] == speed.FULL)
    with tempfile.TemporaryDirectory() as place:
        given = speed.known(12288, 1200, 0)
        np.save(Path(place, "matrix.npy"), given.matrix)
        code = "import re, time\n" + LARGEST.format(place=place, threads=threads, k=1200)
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, cwd=ROOT)
        spent, memory, bound = map(float, told.stdout.split())
        found = np.load(Path(place, "right.npy"))[:, :1200]
    off = np.linalg.norm(found - given.right @ (given.right.T @ found), 2)
    print(f"    first 1,200 of 12288²: {spent:.1f} s, φ off by {off:.1e}, bound {bound:.1e} without storing")
    print(f"    at most {memory:.2f} times the matrix in memory, imports and the matrix itself included")
    show("top 1,200 of 12288²", spent, whole * 27, "a full SVD, extrapolated from 4096²")


def intruders():
    """Counts of intruders of every bundled module and adapter, and two whole decompositions of each in float64."""
    pairs, matrices = [], {}
    for name, adapters in (("all-MiniLM-L6-v2", "adapters"), ("SmolLM2-135M-Instruct", "language_model_adapters")):
        base = weights.open_base(ROOT / "data" / name)
        for place in sorted((ROOT / "data" / adapters).iterdir()):
            updates = weights.open_update(place, base)
            found = weights.match(base, updates).items()
            pairs += [((name, module), updates.update(called)) for module, called in found]
        matrices |= {place: base.weight(place[1]).astype(float) for place, _ in pairs if place[0] == name}

    def ours():
        known = {place: directions.decompose(weight, min(weight.shape)) for place, weight in matrices.items()}
        return [int((leading_cosines(known[place], update)[0] < 0.5).sum()) for place, update in pairs]

    def theirs():
        counts = []
        for place, update in pairs:
            both = matrices[place], matrices[place] + update.delta()
            before, after = (np.linalg.svd(matrix, full_matrices=False)[0] for matrix in both)
            counts.append(int((np.abs(after[:, :10].T @ before).max(1) < 0.5).sum()))
        return counts

    counts, times = [], []
    for count in (ours, theirs):
        start = time.perf_counter()
        counts.append(count())
        times.append(time.perf_counter() - start)
    same = "same counts" if counts[0] == counts[1] else "OTHER COUNTS"
    show(f"intruders of {len(pairs)} bundled updates, {same}", *times, "two SVDs of each")


def atlas():
    """The atlas of SmolLM2 with four adapters, and one adapter at a time, which decomposes every W four times."""
    p = parameters.ModelAtlas()
    start = time.perf_counter()
    subspaces.atlas(p.base, p.adapters)
    ours, start = time.perf_counter() - start, time.perf_counter()
    for adapter in p.adapters:
        subspaces.atlas(p.base, [adapter])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    show(f"atlas of SmolLM2, {peak:.1f} GB at most so far", ours, time.perf_counter() - start, "an adapter at a time")


MAPPED = """
import re, time
import distributed
from helpers import subspaces

def peak():
    return int(re.search("VmHWM: *([0-9]+)", open("/proc/self/status").read().expandtabs(1))[1]) / 2**10

own = {{"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}}
many = {{"n_workers": {workers}, "threads_per_worker": 1, "memory_limit": 0}}
with distributed.LocalCluster(**many, **own) as cluster, distributed.Client(cluster) as client:
    client.run(__import__, "helpers.subspaces")
    start = time.perf_counter()
    asked = {{"scheduler": cluster.scheduler_address, "progress": lambda *_: None}}
    rows = subspaces.atlas({base!r}, [{adapter!r}], {modules!r}, **asked)
    spent = time.perf_counter() - start
    print(len(rows), spent, peak(), max(client.run(peak).values()), sep=";")
"""
TIMED = 8  # layers of which the time is taken, below ten


def atlas_of_a_large_model(d=4096, layers=32):
    """Queries, keys, values and outputs of a synthetic model in bf16, with an adapter of rank 16 on all of them.

    Its weights have the spectrum of a large trained one, and other directions each.

    By workers with a BLAS thread each, their imports not counted: how much faster two are than one, and the most memory
    that a worker, and scheduler and client in one process, take for some layers and for all.
    """
    kinds = [f"self_attn.{kind}_proj" for kind in "qkvo"]
    with tempfile.TemporaryDirectory() as place:
        base, adapter, factors = Path(place, "base"), Path(place, "adapter"), {}
        base.mkdir()
        adapter.mkdir()
        index, weight = {"weight_map": {}}, torch.from_numpy(speed.known(d, 1, 0).matrix)
        for layer in range(layers):
            names = [f"model.layers.{layer}.{kind}" for kind in kinds]
            shard = f"model-{layer + 1:05}-of-{layers:05}.safetensors"
            tensors = {f"{name}.weight": weight[torch.randperm(d)].bfloat16() for name in names}
            save_file(tensors, base / shard)
            index["weight_map"] |= dict.fromkeys(tensors, shard)
            factors |= {f"base_model.model.{name}.lora_A.weight": torch.randn(16, d) for name in names}
            factors |= {f"base_model.model.{name}.lora_B.weight": torch.randn(d, 16) / d for name in names}
        size = sum(file.stat().st_size for file in base.iterdir()) / 1e9
        (base / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        save_file(factors, adapter / "adapter_model.safetensors")
        (adapter / "adapter_config.json").write_text(json.dumps({"r": 16, "lora_alpha": 16}), encoding="utf-8")
        found = {}
        for workers, some in ((1, True), (2, True), (2, False)):
            modules = f"layers.[0-{TIMED - 1}].*" if some else ""
            code = MAPPED.format(workers=workers, base=str(base), adapter=str(adapter), modules=modules)
            run = {"capture_output": True, "text": True, "cwd": ROOT, "check": True}
            told = subprocess.run([sys.executable, "-c", code], **run).stdout.split("\n")[-2]
            found[workers, some] = [float(each) for each in told.split(";")]
    rows, one, *_ = found[1, True]
    _, two, *few = found[2, True]
    every, seconds, *many = found[2, False]
    print(f"atlas of {rows:.0f} modules of d = {d}: one worker {one:.1f} s, two {two:.1f} s", end="; ")
    print(f"efficiency {one / two / 2:.0%}; all {every:.0f} modules ({size:.1f} GB) by two {seconds:.1f} s")
    for what, less, more in zip(("scheduler and client", "a worker"), few, many, strict=True):
        print(f"    memory of {what}, at most: {rows:.0f} modules {less:,.0f} MB, {every:.0f} modules {more:,.0f} MB")


def explorer():
    """A step of a slider, in the kernel: ours, and `interactive` with a new figure of seaborn's heatmaps.

    What a step computes is remembered, so that first visits (a decomposition, attributions, draws) take longer.
    """
    p = parameters.SubspaceSimilarity(adapters=parameters.SubspaceSimilarity().adapters[:3])
    study, rng = subspaces.Similarity(p), np.random.default_rng(0)
    live = explorers.subspace_similarity(study).live()
    laws = explorers.random_baselines(parameters.RandomBaselines()).live()
    maps = explorers.digit_saliency(digits.Study(parameters.DigitSaliency())).live()

    def plainly(layer):
        there = study.replace(module=f"model.layers.{layer}.self_attn.q_proj")
        figure, every_axes = plt.subplots(1, 4, figsize=(9, 4))
        for axes, (name, (grid, *_)) in zip(every_axes, there.panels.items(), strict=True):
            rows = range(there.first_i, there.last_i + 1)
            sns.heatmap(pd.DataFrame(grid, index=rows), ax=axes).set_title(name)
        print_figure(figure)  # as Jupyter does with a figure that a cell leaves
        plt.close(figure)

    theirs = interactive(plainly, layer=IntSlider(5, 0, 5))
    medians = {}
    for name, move, count in (
        ("01, layer", lambda n: setattr(live.controls["layer"], "index", n % 6), 120),
        ("01, any control", lambda _: anywhere(live, rng), 120),
        ("02, i", lambda n: setattr(laws.controls["rank_i"], "index", n % 8), 80),
        ("03, digit", lambda n: setattr(maps.controls["digit"], "index", n % 10), 80),
        ("03, layers shuffled", lambda n: setattr(maps.controls["randomised_layers"], "index", n % 5), 80),
        ("01, layer, interactive + sns.heatmap", lambda n: setattr(theirs.children[0], "value", n % 6), 18),
    ):
        times = []
        for n in range(count):
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):  # to which `interactive` clears its output
                move(n)
            times.append(time.perf_counter() - start)
        medians[name], late = np.percentile(times, [50, 95]) * 1e3
        print(f"a step of {name:37}: median {medians[name]:7.1f} ms, 95th percentile {late:7.1f} ms")
    print(f"ratio of the medians by layer, four panels: 1 : {medians[name] / medians['01, layer']:,.1f}")


def anywhere(live, rng):
    """Move one control to another of its values."""
    able = [control for control in live.controls.values() if not control.disabled]
    control = able[rng.integers(len(able))]
    old = control.index
    while control.index == old:
        places = [int(n) for n in sorted(rng.integers(len(control.options), size=2))]
        control.index = tuple(places) if isinstance(old, tuple) else places[0]


def runner():
    """The runner against bare papermill, kernels at once against one after another, and sweeps."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    with tempfile.TemporaryDirectory() as place:
        one, out = ROOT / "notebooks" / "02_random_baselines.ipynb", Path(place)
        bare = {"kernel_name": "python3", "progress_bar": False}
        theirs = best(
            lambda: papermill.execute_notebook(one, out / "bare.ipynb", {"results": str(out / "r")}, **bare), 3
        )
        ours = best(lambda: asyncio.run(run.produce(run.load(one), {}, name=one.stem)), 3)
        show("notebook 02 by the runner, with its page    ", ours, theirs, "bare papermill")
        print(f"overhead of the runner without frames: {ours / theirs - 1:.1%}")
        show(
            "notebook 02 by the runner, with frames       ", best(lambda: run.run(one, {}, out), 3), theirs, "the same"
        )
        alone = best(lambda: run.run_all(notebooks, {}, out, jobs=1), 1)
        together = best(lambda: run.run_all(notebooks, {}, out, jobs=2), 1)
        show("all notebooks, two kernels at once           ", together, alone, "one after another")
        times = []
        for jobs in (1, 2):
            parameters = sweep.grid(one, {"draws": 200, "rank_j": 4}, {"dimension": [64, 96], "rank_i": [8, 12]})
            times.append(best(lambda p=parameters, n=jobs: sweep.sweep(one, p, out / f"sweep-{n}", jobs=n), 1))
        show("sweep of four runs, two at once              ", times[1], times[0], "one after another")
        print(f"efficiency of the sweep at 2 kernels: {times[0] / times[1] / 2:.0%}")


if __name__ == "__main__":
    main()
