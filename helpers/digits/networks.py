"""Two small classifiers of images of digits, and what any network says of images."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

BYTES = 2**19  # of the images in one forward pass: the activations of more leave the processor's cache
Images = Float[np.ndarray, "n h w"] | Float[torch.Tensor, "n h w"]


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


@torch.no_grad()
def logits(model, images: Images) -> Float[torch.Tensor, "n classes"]:
    """Logits [n, 10] of images [n, h, w], as many in a pass as the processor's cache is good for."""
    images = torch.as_tensor(images)[:, None]
    rows = max(1, BYTES // (images.element_size() * images.shape[1:].numel()))
    return torch.cat([model(part) for part in images.split(rows)])


def probabilities(model, images: Images) -> Float[torch.Tensor, "n classes"]:
    """Probabilities [n, 10] of images [n, h, w]: the softmax of the outputs.

    Where the model says that it gives them itself, `model.explains == "probability"`, its outputs.
    """
    outputs = logits(model, images)
    return outputs if getattr(model, "explains", "logit") == "probability" else outputs.softmax(1)


def accuracy(model, images: Images, labels: Int[np.ndarray, " n"]) -> float:
    """Share of the images whose largest logit is that of the label."""
    return float((logits(model, images).argmax(1).numpy() == labels).mean())
