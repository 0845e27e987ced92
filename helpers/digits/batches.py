"""How many rows go through a network at once, and how many networks."""

from concurrent.futures import ThreadPoolExecutor
from threading import RLock

import torch
from jaxtyping import Float

BYTES = 2**25  # kept for the gradient: more leaves the processor's cache, and is paged in anew at every pass
MOST = 1024
MOST_THREADS = 4  # each takes memory for a pass of its own
SILENCED = RLock()  # warnings are silenced for all threads at once, so by one at a time


def rows(model, x: Float[torch.Tensor, "n 1 h w"]) -> int:
    """Rows of x that keep about 32 MB for the gradient in one pass, 1 … 1,024.

    What a row keeps is measured by a pass with one and one with two: of modules and saved programs alike.
    """
    kept = [_kept(model, x[:1].expand(count, -1, -1, -1)) for count in (1, 2)]
    return min(max(BYTES // max(kept[1] - kept[0], 1), 1), MOST)


def pairs(n: int, of_each: int, most: int):
    """All pairs (i < n, k < of_each), i by i, in parts of at most `most`: index tensors i and k of each part."""
    for first in range(0, n * of_each, most):
        part = torch.arange(first, min(first + most, n * of_each))
        yield part // of_each, part % of_each


def side_by_side(function, networks):
    """Yields function(network) of each, in their order: as many at once as torch has threads, one thread each.

    Small networks are faster so than one after another with all threads.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(function, networks)
        return
    with ThreadPoolExecutor(min(threads, MOST_THREADS), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(function, networks)
    torch.set_num_threads(threads)


def _kept(model, x):
    """Bytes that a forward pass keeps for the gradient."""
    sizes = []  # of what the hook is shown; it keeps nothing, since a node that held its own output would never go
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes), _never):
        model(x.detach().clone().requires_grad_())
    return sum(sizes)


def _never(_):
    raise NotImplementedError("there is no backward pass")
