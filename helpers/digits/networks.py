"""Handwritten digits: two data sets, splits by image and by writer, two small classifiers and their training."""

import copy
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import nn


def convolutional(size, dropout=0.5):
    """Two convolutions and two linear layers, 38,282 parameters: [n, 1, size, size] → logits [n, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4) if size != 8 else nn.Identity(),  # images of 8 × 8 are at 4 × 4 already
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class Transformer(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) with a class token and 4 × 4 patches: [n, 1, h, w] → logits.

    size: h and w, a multiple of 4. width: numbers in a token. After a forward pass `attention` of every block holds
    its weights [n, heads, 17, 17].
    """

    PATCHES = 4

    def __init__(self, size, width=32, depth=2, heads=4, dropout=0.1):
        super().__init__()
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, self.PATCHES**2 + 1, width))
        self.embed = nn.Conv2d(1, width, size // self.PATCHES, stride=size // self.PATCHES)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images):
        """Logits [n, 10]."""
        patches = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1) + self.position
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


class Block(nn.Module):
    """Attention and a small network, each after a layer norm and beside a skip: tokens [n, t, width] → the same."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)
        self.attention = None

    def forward(self, tokens):
        """Tokens after this block."""
        split = self.query_key_value(self.before_attention(tokens)).unflatten(2, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        self.attention = weights.detach()
        tokens = tokens + self.dropout(self.project((weights @ value).transpose(1, 2).flatten(2)))
        return tokens + self.dropout(self.mlp(self.before_mlp(tokens)))


ARCHITECTURES = {"cnn": convolutional, "transformer": Transformer}


def untrained(architecture, size, seed, **options):
    """A network as it starts, in evaluation mode. architecture: "cnn" or "transformer". seed: decides its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture](size, **options).eval()


def train(model, images, labels, *, seed, epochs, patience=0, jitter=0.0, batch_size=32, learning_rate=2e-3):
    """Train a network with AdamW, in place; returns [(epoch, training loss, validation loss), …].

    images [n, h, w], labels [n]. patience: epochs without a better validation loss before it stops; a tenth of the
    images is then kept for validation, and the weights of the best epoch are restored. 0: all images, all epochs; the
    validation loss is NaN. jitter: strength of random shifts, turns and scalings. The seed decides all draws.
    """
    seen, kept = (np.arange(len(labels)), [])
    if patience:
        seen, kept = train_test_split(seen, test_size=0.1, stratify=labels, random_state=seed)
    x, y = torch.tensor(images)[:, None], torch.tensor(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    history, best = [], (np.inf, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            model.train()
            order, losses = torch.from_numpy(seen)[torch.randperm(len(seen))], []
            for chosen in order.split(batch_size):
                loss = nn.functional.cross_entropy(model(_jittered(x[chosen], jitter)), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            model.eval()
            held = _loss(model, x[kept], y[kept]) if patience else np.nan
            history.append((epoch, float(np.mean(losses)), held))
            if not np.isfinite(history[-1][1]):
                raise ValueError(f"the loss is {history[-1][1]} in epoch {epoch}: lower learning_rate")
            if held < best[0]:
                best = held, (epoch, copy.deepcopy(model.state_dict()))
            if patience and epoch - best[1][0] >= patience:
                break
    if patience:
        model.load_state_dict(best[1][1])
    return history


def fit(architecture, images, labels, *, seed, dropout=None, **schedule):
    """(network, history): an untrained network of this seed, trained by `train` in one thread."""
    options = {} if dropout is None else {"dropout": dropout}
    network = untrained(architecture, images.shape[-1], seed, **options)
    with _one_thread():
        return network, train(network, images, labels, seed=seed, **schedule)


@torch.no_grad()
def logits(model, images, rows=1024):
    """Logits [n, 10] of images [n, h, w], in parts of at most `rows`."""
    return torch.cat([model(part) for part in torch.as_tensor(images)[:, None].split(rows)])


def accuracy(model, images, labels):
    """Share of the images whose largest logit is that of the label."""
    return float((logits(model, images).argmax(1).numpy() == labels).mean())


@contextmanager
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _loss(model, x, y):
    return float(nn.functional.cross_entropy(model(x), y))


def _jittered(x, strength):
    """Images shifted by up to `strength` of half their size, turned by as many radians and scaled by as much."""
    if not strength:
        return x
    shift, turn, scale = ((2 * torch.rand(size, len(x)) - 1) * strength for size in (2, 1, 2))
    cos, sin, (across, down) = turn[0].cos(), turn[0].sin(), 1 + scale
    rows = [torch.stack([cos * across, -sin, shift[0]], 1), torch.stack([sin, cos * down, shift[1]], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), x.shape, align_corners=False)
    return nn.functional.grid_sample(x, grid, align_corners=False)
