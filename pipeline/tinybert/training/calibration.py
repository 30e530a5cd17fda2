"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599): probabilities that match the accuracy.

A model that overfits a few rows is overconfident on all others. Dividing its logits by one temperature corrects this
and changes no prediction.
"""

import math

import numpy as np
from scipy.optimize import minimize_scalar
from torch import nn
from transformers import PreTrainedModel

from pipeline.tinybert.core.log import without_counts
from pipeline.tinybert.models.inference import EvaluationSet

LARGEST = 10.0
# The logarithm of the temperature has a normal prior with this deviation and mean 0, so that few rows change less.
DEVIATION = 0.5
SMALLEST_PROBABILITY = 1e-6
PRECISION = 0.01  # of the logarithm


def temperature(validation: EvaluationSet, logits: list[np.ndarray]) -> float:
    """The temperature that makes the probabilities of the predictions for ``validation`` most likely.

    logits: of each sequence of ``validation``, (positions, C). Returns 1 for a kind without probabilities.
    """
    task = validation.task
    if not task.has_probabilities:
        return 1.0

    def cost(logarithm: float) -> float:
        scaled = [values / math.exp(logarithm) for values in logits]
        confidence, correct = task.calibration(validation.rows, validation.answers(scaled), scaled)
        confidence = np.clip(confidence.astype(float), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        right = correct.sum()
        # Platt's targets: even if all predictions are right, none of them is certain.
        target = np.where(correct, (right + 1) / (right + 2), 1 / (len(correct) - right + 2))
        likelihood = (target * np.log(confidence) + (1 - target) * np.log1p(-confidence)).sum()
        return (logarithm / DEVIATION) ** 2 / 2 - likelihood

    bound = math.log(LARGEST)
    with without_counts():  # otherwise each evaluation logs the same count of truncated words
        found = minimize_scalar(cost, bounds=(-bound, bound), method="bounded", options={"xatol": PRECISION})
    return math.exp(found.x)


def divide_logits(model: PreTrainedModel, by: float) -> None:
    """Divide the weights of the model's last projection, so that every format of the model has the new logits."""
    body = set(model.base_model.modules())  # in some families it comes behind the head
    last = [module for module in model.modules() if isinstance(module, nn.Linear) and module not in body][-1]
    assert last.out_features == model.config.num_labels
    for weights in last.parameters():
        weights.data /= by
