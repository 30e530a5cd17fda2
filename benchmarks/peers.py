"""Scores of other methods on the same rows: `python benchmarks/peers.py TASK --out FILE`.

Runs in a folder where `prepare` and `general_student` have run for the task, and writes the score of each peer on the
test split, by the task's metric, as JSON. Each peer trains on train and validation together.

- TF-IDF: words and pairs of words, sublinear counts, logistic regression (classification).
- frozen embeddings: of the encoder, mean over the word pieces, normalised; of a pair |a-b| and a*b; logistic regression
  (classification). C is chosen by cross-validation, as for TF-IDF.
- cosine: of the frozen embeddings of the two texts, without training (pairs with numbers).
- Trainer: transformers.Trainer on the labels, from the general student (all other kinds).
- SetFit: on the encoder, if the package is installed (classification of single texts).
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.data import rows
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.embeddings import LONGEST, mean_embeddings
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import EvaluationSet, encode, pytorch_forward
from pipeline.tinybert.tasks import Task

ENCODER = Path("models/pretrained/encoder")
CS, FOLDS = [0.1, 1, 10, 100], 5
SCORING = {"accuracy": "accuracy", "macro_f1": "f1_macro", "mcc": "matthews_corrcoef"}
EPOCHS, RATE = 10, 1e-4  # of Trainer; the batch size is its default
SETFIT_STEPS = 500  # by default, their number grows with the square of the rows
Rows = list[rows.Row]


def peers(name: str, seed: int) -> dict[str, float]:
    """Name of the peer → its score."""
    prepared = Path("data", name, "prepared")
    task = tasks.load(settings.load(), name)
    train, validation, test = (list(rows.read(prepared / f"{part}.jsonl")) for part in ("train", "validation", "test"))
    known = train + validation
    predicted: dict[str, list] = {}
    if settings.load().task(name).kind == "text_classification":
        predicted["TF-IDF"] = tf_idf(known, test, task.metric)
        predicted["frozen embeddings"] = frozen(known, test, task.metric)
        if "pair" not in test[0] and importlib.util.find_spec("setfit"):
            predicted["SetFit"] = setfit(known, test, seed)
    elif "pair" in test[0] and isinstance(test[0]["label"], float):
        predicted["cosine"] = cosines(test)
    found = {peer: task.score(test, answers)[task.metric] for peer, answers in predicted.items()}
    if "TF-IDF" not in found:
        found["Trainer"] = trainer(task, name, known, test, seed)
    return {peer: round(float(value), 4) for peer, value in found.items()}


def tf_idf(known: Rows, test: Rows, metric: str) -> list[str]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    def texts(part: Rows) -> list[str]:
        return [" ".join(row[field] for field in ("text", "pair") if field in row) for row in part]

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return logistic_regression([vectorizer], texts(known), known, texts(test), metric)


def frozen(known: Rows, test: Rows, metric: str) -> list[str]:
    return logistic_regression([], features(known), known, features(test), metric)


def logistic_regression(steps: list, known, labelled: Rows, test, metric: str) -> list[str]:
    """Predictions for ``test`` of a model whose C is the best in cross-validation on ``known``."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    labels = [row["label"] for row in labelled]
    folds = max(2, min(FOLDS, min(Counter(labels).values())))
    search = GridSearchCV(
        make_pipeline(*steps, LogisticRegression(max_iter=2000)),
        {"logisticregression__C": CS},
        scoring=SCORING[metric],
        cv=StratifiedKFold(folds, shuffle=True, random_state=1),
    )
    return search.fit(known, labels).predict(test).tolist()


def features(part: Rows) -> np.ndarray:
    """(rows, D) of texts, (rows, 2 D) of pairs."""
    first = embeddings([row["text"] for row in part])
    if "pair" not in part[0]:
        return first
    second = embeddings([row["pair"] for row in part])
    return np.hstack([np.abs(first - second), first * second])


def cosines(part: Rows) -> list[float]:
    first, second = (embeddings([row[field] for row in part]) for field in ("text", "pair"))
    return (first * second).sum(axis=1).tolist()


def embeddings(texts: list[str]) -> np.ndarray:
    from transformers import AutoModel

    return mean_embeddings(checkpoints.load(AutoModel, ENCODER), checkpoints.tokenizer(ENCODER), texts)


def trainer(task: Task, name: str, known: Rows, test: Rows, seed: int) -> float:
    """The test score of transformers.Trainer: the general student with a head, on the labels."""
    from transformers import Trainer, TrainingArguments

    folder = Path("models", name, "general_student")
    tokenizer, model = checkpoints.tokenizer(folder), task.load_model(folder, seed)
    with tempfile.TemporaryDirectory() as output:
        options = TrainingArguments(
            output,
            num_train_epochs=EPOCHS,
            learning_rate=RATE,
            seed=seed,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            remove_unused_columns=False,
        )
        data = EncodedRows.in_memory(encode(task, known, tokenizer))
        Trainer(model, options, train_dataset=data, data_collator=Collator(tokenizer)).train()
    evaluation = EvaluationSet(task, test, tokenizer)
    with pytorch_forward(task, model) as forward:
        return evaluation.score(evaluation.logits(forward))[task.metric]


def setfit(known: Rows, test: Rows, seed: int) -> list[str]:
    """SetFit's defaults, on the encoder with mean pooling, for ``SETFIT_STEPS`` steps."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    body = Transformer(str(ENCODER), max_seq_length=LONGEST)
    body = SentenceTransformer(modules=[body, Pooling(body.get_word_embedding_dimension()), Normalize()])
    model = SetFitModel(body, LogisticRegression(max_iter=2000))
    with tempfile.TemporaryDirectory() as output:
        data = Dataset.from_list([{"text": row["text"], "label": row["label"]} for row in known])
        options = TrainingArguments(output, seed=seed, max_steps=SETFIT_STEPS, report_to="none", save_strategy="no")
        Trainer(model=model, args=options, train_dataset=data).train()
    return [str(label) for label in model.predict([row["text"] for row in test])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found = peers(given.task, given.seed)
    given.out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
