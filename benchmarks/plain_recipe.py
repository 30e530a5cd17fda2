"""The benchmarks' reference: TinyBERT's task distillation as the paper's released code computes it.

A plain reimplementation that is slow where the released code is slow. Every row is padded to the maximum length. The
teacher's forward is repeated in every epoch of both stages. Attention is eager, with the scores of all layers. Losses
include padding. The masked language model gets one masked word of one sentence at a time, beside the unmasked sentence;
it computes logits at every position, with gradients. Every occurrence of a word costs a product with all word vectors
and a full sort. The recipe is the paper's (arXiv 1909.10351, section 3 and algorithm 1), in float32.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import log_softmax, mse_loss, softmax
from torch.utils.data import DataLoader, TensorDataset
from transformers import AttentionInterface, AttentionMaskInterface, get_linear_schedule_with_warmup
from transformers.masking_utils import eager_mask

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

EVALUATION_STEP = 100
EVALUATION_BATCH = 32
MASKED_SCORE = -100  # scores at or below it belong to masked keys
SCORES = "eager_scores"


def _eager_scores(module, query, key, value, attention_mask, scaling, dropout=0.0, **rest):
    """Eager attention that returns its masked scores before softmax; the library's returns probabilities."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = drop(softmax(scores, dim=-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), scores


AttentionInterface.register(SCORES, _eager_scores)
AttentionMaskInterface.register(SCORES, eager_mask)


class Augmenter:
    """``augmenter(text)`` returns the text and its variants."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        vectors: KeyedVectors,
        stop_words: Collection[str],
        variants: int,
        candidates: int,
        probability: float,
        seed: int,
    ):
        self.model, self.tokenizer, self.stop_words = model.eval(), tokenizer, stop_words
        self.variants, self.candidates, self.probability = variants, candidates, probability
        self.words, self.index = vectors.index_to_key, vectors.key_to_index
        self.vectors = vectors.get_normed_vectors().astype(np.float64)
        self.draw = random.Random(seed)

    def __call__(self, text: str) -> list[str]:
        words = self.words_of(text)
        proposed = {
            at: self.propose(text, at, word)
            for at, word in enumerate(words)
            if word.isalpha() and word not in self.stop_words
        }
        texts = [text]
        for _ in range(self.variants):
            variant = list(words)
            for at, candidates in proposed.items():
                if candidates and self.draw.random() < self.probability:
                    variant[at] = self.draw.choice(candidates)
            if " ".join(variant) not in texts:
                texts.append(" ".join(variant))
        return texts

    def words_of(self, text: str) -> list[str]:
        rules = self.tokenizer.backend_tokenizer
        return [word for word, _ in rules.pre_tokenizer.pre_tokenize_str(rules.normalizer.normalize_str(text))]

    def propose(self, text: str, at: int, word: str) -> list[str]:
        """Candidates from the masked language model if the word is one word piece, else from the word vectors."""
        if len(self.tokenizer.tokenize(word)) > 1:
            return self.nearest(word)
        pieces = self.tokenizer.tokenize(text)
        begins = [number for number, piece in enumerate(pieces) if not piece.startswith("##")]
        return self.predicted(pieces, begins[at])

    def predicted(self, pieces: list[str], at: int) -> list[str]:
        masked = [*pieces[:at], self.tokenizer.mask_token, *pieces[at + 1 :]]
        cls, sep = self.tokenizer.cls_token, self.tokenizer.sep_token
        first, second = [cls, *masked, sep], [*pieces, sep]
        ids = self.tokenizer.convert_tokens_to_ids([*first, *second])[: self.tokenizer.model_max_length]
        segments = [*[0] * len(first), *[1] * len(second)][: len(ids)]
        ids, segments = torch.tensor([ids, segments], device=self.model.device).split(1)
        logits = self.model(ids, token_type_ids=segments).logits
        best = logits[0, at + 1].argsort(descending=True)[: self.candidates].tolist()
        return [piece for piece in self.tokenizer.convert_ids_to_tokens(best) if not piece.startswith("##")]

    def nearest(self, word: str) -> list[str]:
        if word not in self.index:
            return []
        cosines = self.vectors @ self.vectors[self.index[word]]
        return [self.words[other] for other in np.argsort(-cosines)[1 : self.candidates + 1]]


Loss = Callable[[object, object], Tensor]  # of the student's outputs and the teacher's


class Rows(TensorDataset):
    """Encoded sequences, all padded to the maximum length."""

    def __init__(self, columns: dict[str, list], tokenizer, length: int):
        self.names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in columns]
        fillers = {"input_ids": tokenizer.pad_token_id}
        super().__init__(*(_padded(columns[name], length, fillers.get(name, 0)) for name in self.names))

    def batches(self, size: int, device: torch.device, shuffle: bool = True) -> Iterator[dict[str, Tensor]]:
        for inputs in DataLoader(self, size, shuffle):
            yield {name: values.to(device) for name, values in zip(self.names, inputs, strict=True)}


def _padded(values: list[list[int]], length: int, filler: int) -> Tensor:
    return torch.tensor([[*row, *[filler] * (length - len(row))] for row in values])


def optimizer_of(modules: nn.Module, rate: float, decay: float) -> torch.optim.Optimizer:
    """AdamW that updates one parameter after the other, like the released optimizer."""
    return torch.optim.AdamW(modules.parameters(), lr=rate, weight_decay=decay, foreach=False, fused=False)


def learn_states(
    student: nn.Module,
    teacher: nn.Module,
    rows: Rows,
    layer_map: list[int],
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> list[float]:
    """The intermediate stage: train the student in place; return the loss of each step. Both models are encoders."""
    projection = nn.Linear(student.config.hidden_size, teacher.config.hidden_size).to(student.device)
    for encoder in (student, teacher):
        encoder.set_attn_implementation(SCORES)
    optimizer = optimizer_of(nn.ModuleList([student, projection]), learning_rate, 0.01)
    curve = []
    for _ in range(epochs):
        for inputs in rows.batches(batch_size, student.device):
            loss = intermediate_loss(student.train(), teacher, projection, inputs, layer_map)
            _step(optimizer, loss)
            curve.append(loss.item())
    return curve


def intermediate_loss(
    student: nn.Module, teacher: nn.Module, projection: nn.Module, inputs: dict[str, Tensor], layer_map: list[int]
) -> Tensor:
    requested = {"output_hidden_states": True, "output_attentions": True}
    ours = student(**inputs, **requested)
    with torch.no_grad():
        theirs = teacher(**inputs, **requested)
    loss = mse_loss(projection(ours.hidden_states[0]), theirs.hidden_states[0])
    for layer, mapped in enumerate(layer_map, start=1):
        loss = loss + mse_loss(projection(ours.hidden_states[layer]), theirs.hidden_states[mapped])
        loss = loss + mse_loss(_visible(ours.attentions[layer - 1]), _visible(theirs.attentions[mapped - 1]))
    return loss


def _visible(scores: Tensor) -> Tensor:
    return torch.where(scores <= MASKED_SCORE, torch.zeros_like(scores), scores)


def learn_logits(
    student: nn.Module,
    teacher: nn.Module,
    rows: Rows,
    loss_of: Loss,
    evaluate: Callable[[nn.Module], None],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    warmup: float,
) -> list[float]:
    """The prediction stage: train the student in place; return the loss of each step.

    ``evaluate`` is called every 100 steps.
    """
    for model in (student, teacher):
        model.set_attn_implementation(SCORES)
    optimizer = optimizer_of(student, learning_rate, 0.01)
    steps = epochs * -(-len(rows) // batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, int(warmup * steps), steps)
    curve = []
    for _ in range(epochs):
        for inputs in rows.batches(batch_size, student.device):
            outputs = student.train()(**inputs, output_attentions=True)
            with torch.no_grad():
                targets = teacher(**inputs, output_attentions=True)
            loss = loss_of(outputs, targets)
            _step(optimizer, loss)
            schedule.step()
            curve.append(loss.item())
            if len(curve) % EVALUATION_STEP == 0:
                evaluate(student.eval())
    return curve


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def outputs_of(model: nn.Module, rows: Rows) -> list:
    """The outputs of all rows, padded to the maximum length, as in evaluation."""
    batches = rows.batches(EVALUATION_BATCH, model.device, shuffle=False)
    return [model(**inputs, output_attentions=True) for inputs in batches]


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return -(softmax(teacher, dim=-1) * log_softmax(student, dim=-1)).sum(dim=-1).mean()


def of_classes(outputs, targets) -> Tensor:
    """For tasks with one label per text."""
    return soft_cross_entropy(outputs.logits, targets.logits)


def of_spans(outputs, targets) -> Tensor:
    """For question answering: the mean over start and end of the answer, each over all positions."""
    start = soft_cross_entropy(outputs.start_logits, targets.start_logits)
    return (start + soft_cross_entropy(outputs.end_logits, targets.end_logits)) / 2


LOSSES = {"text_classification": of_classes, "question_answering": of_spans}
