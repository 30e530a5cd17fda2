"""The answers that `evaluate` scores."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from pipeline.tinybert.evaluation import answers
from pipeline.tinybert.models import checkpoints, ensembles

LOGITS = {"validation": [1.0, 4.0], "test": [9.0, 8.0]}  # part → the logits of its only row by each of two models
PARTS = {part: [{"text": part}] for part in LOGITS}


class Thresholds:
    """A task whose best threshold is the first prediction, and whose answers tell their threshold."""

    needs_threshold = True

    def load_model(self, folder):
        return None

    def best_threshold(self, rows, predictions):
        return predictions[0]

    def apply_threshold(self, predictions, threshold):
        return [(prediction, threshold) for prediction in predictions]


class TwoModels:
    def logits(self, rows, description):
        read = SimpleNamespace(predictions=lambda logits: [float(values[0, 0]) for values in logits])
        return read, [[np.full((1, 1), value)] for value in LOGITS[rows[0]["text"]]]


def test_each_of_several_models_has_the_threshold_that_is_best_on_validation(tmp_path, monkeypatch):
    @contextmanager
    def opened(task, models):
        yield TwoModels()

    monkeypatch.setattr(ensembles, "opened", opened)
    monkeypatch.setattr(ensembles, "folders", lambda folder: [folder, folder / "2"])
    monkeypatch.setattr(checkpoints, "tokenizer", lambda folder: None)
    monkeypatch.setattr(answers, "to_inference", lambda model, precision, device: model)
    found = answers.predict_tests(Thresholds(), tmp_path, PARTS, ["test"])
    assert found.threshold == 2.5 and found.predictions["test"] == [(8.5, 2.5)]
    assert found.member_predictions == [[(9.0, 1.0)], [(8.0, 4.0)]]
