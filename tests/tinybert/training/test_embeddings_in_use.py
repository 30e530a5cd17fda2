"""Only the embeddings of word pieces that occur are trained: the result is the same, for every family."""

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoTokenizer

from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.families import FAMILIES
from pipeline.tinybert.models.inference import EvaluationSet, encode, pytorch_forward
from pipeline.tinybert.training.embeddings_in_use import embeddings_in_use
from pipeline.tinybert.training.fine_tuning import LabelObjective
from pipeline.tinybert.training.loop import train_or_load
from pipeline.tinybert.training.plan import Plan

SIMPLE = [("The film is good.", "positive"), ("The film is bad.", "negative"), ("good good film", "positive")] * 4
OTHER_WORDS = [("A dull and stale story!", "negative"), ("brilliant acting, charming cast", "positive")]
TRAIN, VALIDATION = ([{"text": text, "label": label} for text, label in rows] for rows in (SIMPLE, OTHER_WORDS))
PLAN = Plan(stage="finetune_teacher", seed=1, precision="float32", batch_size=4, learning_rate=1e-2, epochs=3)


class World:
    """A classifier of a family, and its training rows."""

    def __init__(self, folder, task, family: str = "bert"):
        if not folder.exists():
            tiny.write_family(folder, family)
        self.task, self.tokenizer = task, AutoTokenizer.from_pretrained(folder)
        self.model = task.load_model(folder, seed=1)
        self.data = EncodedRows.in_memory(encode(task, TRAIN, self.tokenizer))
        self.before = self.embeddings().clone()

    def embeddings(self) -> torch.Tensor:
        return self.model.get_input_embeddings().weight.detach()

    def in_use(self):
        return embeddings_in_use(self.model, self.data, self.tokenizer.pad_token_id)

    def train(self, plan: Plan = PLAN) -> None:
        train_or_load("training", LabelObjective(self.task), self.model, self.data, Collator(self.tokenizer), plan)


@pytest.mark.parametrize("family", [*FAMILIES, "deberta-v2", "albert"])  # these two only as teachers
def test_training_ends_as_with_all_embeddings(in_empty_folder, task, family):
    with_all, world = (World(in_empty_folder / "encoder", task, family) for _ in range(2))
    with_all.train()
    with world.in_use():
        assert len(world.embeddings()) < len(world.before) / 2
        world.train()
    expected, found = with_all.model.state_dict(), world.model.state_dict()
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=2e-4, rtol=1e-3, msg=name)
    assert not torch.equal(world.embeddings(), world.before)


def test_embeddings_of_words_that_do_not_occur_keep_their_values(in_empty_folder, task):
    world = World(in_empty_folder / "encoder", task)
    with world.in_use():
        world.train(Plan(**{**vars(PLAN), "weight_decay": 0.5}))
    occur = world.data.pieces["input_ids"]
    changed = (world.embeddings() != world.before).any(dim=1).nonzero().flatten()
    assert set(changed.tolist()) == set(occur.tolist())


def test_validation_in_a_training_reads_words_that_train_lacks(in_empty_folder, task):
    world = World(in_empty_folder / "encoder", task)
    validation = EvaluationSet(task, VALIDATION, world.tokenizer)

    def logits() -> np.ndarray:
        with pytorch_forward(task, world.model) as forward:
            return np.concatenate(validation.logits(forward))

    untrained = logits()
    with world.in_use():
        assert np.array_equal(logits(), untrained)
        world.train()
        within = logits()
    assert np.array_equal(logits(), within) and not np.allclose(within, untrained)


def test_a_word_piece_that_the_data_lack_stops_the_training(in_empty_folder, task):
    world = World(in_empty_folder / "encoder", task)
    with world.in_use(), pytest.raises(IndexError):
        world.model.train()(**world.tokenizer("A dull and stale story!", return_tensors="pt"))
    assert torch.equal(world.embeddings(), world.before)
