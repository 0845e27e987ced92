"""`make bench`: speeds as ratios against the alternative, in the same run. Nothing here is asserted."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from helpers import chance, subspace
from helpers.checkpoints import ROOT


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


def show(what, ours, theirs, against):
    times = f"{ours * 1e3:9.2f} ms; {against} {theirs * 1e3:10.2f} ms"
    print(f"{what}: {times}; ratio {ours / theirs:.5f} (1 : {theirs / ours:,.0f})")


def main():
    rng = np.random.default_rng(0)
    u, v = chance.random_directions(12288, 1200, rng), chance.random_directions(12288, 64, rng)
    ours, product = best(lambda: subspace.similarity_grid(u, v)), best(lambda: u.T @ v)
    show("similarity_grid, d = 12288, I = 1200, J = 64 ", ours, product, "the matrix product alone")

    u, v = chance.random_directions(384, 384, rng), chance.random_directions(384, 384, rng)
    ours, loop = best(lambda: subspace.similarity_grid(u, v), 20), best(lambda: double_loop(u, v), 1)
    show("similarity_grid, d = I = J = 384             ", ours, loop, "the double loop over (i, j) ")
    ours, loop = best(lambda: subspace.similarity_grid(u, v[:, :64]), 50), best(lambda: double_loop(u, v[:, :64]), 1)
    show("similarity_grid, d = I = 384, J = 64         ", ours, loop, "the double loop over (i, j) ")

    b, a = rng.standard_normal((2048, 64)), rng.standard_normal((64, 2048))
    ours, full = best(lambda: subspace.low_rank_directions(b, a)), best(lambda: np.linalg.svd(b @ a), 1)
    show("low_rank_directions, d = 2048, r = 64        ", ours, full, "the product and its full SVD")

    w = rng.standard_normal((2048, 2048)) * np.linspace(2, 1, 2048)
    ours, full = best(lambda: subspace.top_directions(w, 200), 2), best(lambda: np.linalg.svd(w), 1)
    show("top_directions, d = 2048, k = 200            ", ours, full, "a full SVD                  ")

    notebook = ROOT / "notebooks" / "01_subspace_similarity.ipynb"
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), str(Path(place, "out.ipynb"))]
        seconds = best(lambda: subprocess.run(command, check=True, capture_output=True), 2)
    print(f"notebook 01 under papermill, kernel start included: {seconds:.1f} s")


if __name__ == "__main__":
    main()
