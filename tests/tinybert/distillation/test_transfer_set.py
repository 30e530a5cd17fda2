import importlib
import json
import tempfile
from pathlib import Path

import damage
import numpy as np
import psutil
import pytest
import tiny

from pipeline.tinybert.distillation import transfer_set
from pipeline.tinybert.models import inference
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows

TASK = tiny.task(["negative", "positive"])
KINDS = ["text_classification", "named_entities", "question_answering"]
LONG = " ".join(tiny.NOUNS * 3)  # as a passage: several windows
TEXTS = {
    "text_classification": {"text": LONG},
    "named_entities": {"words": ["heartwarming", *tiny.NOUNS]},
    "question_answering": {"question": "is the film good", "passage": LONG},
}


def task_of(kind: str):
    options = {"stride": 4} if kind == "question_answering" else {}
    options["metric"] = "accuracy" if kind == "text_classification" else "f1"
    return tiny.task(["O"] if kind == "named_entities" else [], kind=kind, max_length=48, **options)


def rows_of(kind: str) -> list[dict]:
    """The last one is unlabelled text."""
    return [{**TEXTS[kind], "variant": number % 3} for number in range(6)] + [TEXTS[kind]]


@pytest.fixture
def hundred(tmp_path) -> EncodedRows:
    return transfer_set.encode(TASK, [{"text": "film"}] * 100, tiny.tokenizer(), tmp_path)


def numbers(data: EncodedRows) -> list[int]:
    return data.batch(np.arange(len(data)))["number"].tolist()


def model_inputs(data: EncodedRows, number: int) -> dict[str, list]:
    """A sequence alone, so without padding."""
    collate = Collator(tiny.tokenizer(), "label_mask", round_lengths=False)
    return {name: values[0].tolist() for name, values in collate(data.batch([number])).items()}


def test_a_sample_is_drawn_by_its_seed_without_replacement(hundred):
    first, again, other = (numbers(transfer_set.sample(hundred, 20, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 20
    assert min(first) < 30 and max(first) >= 70


@pytest.mark.parametrize("count", [None, 100, 101])
def test_a_sample_of_as_many_rows_as_there_are_is_all_of_them(hundred, count):
    assert numbers(transfer_set.sample(hundred, count, seed=1)) == list(range(100))


@pytest.mark.parametrize(("augmented", "expected"), [(True, ["a", "b", "c"]), (False, ["a", "c"])])
def test_rows_with_labels_are_those_of_train_and_their_variants(in_empty_folder, task, augmented, expected):
    for part, labels in (("augmented", {"a": 0, "b": 1, "c": 0}), ("unlabelled", {"d": 0})):
        Path("data", "films", part).mkdir(parents=True)
        lines = [json.dumps({"text": "film", "label": label, "variant": variant}) for label, variant in labels.items()]
        lines.append(json.dumps({"text": "film", "pair": "plot", "variant": 1}))  # a new pair
        Path("data", "films", part, "rows.jsonl").write_text("\n".join(lines) + "\n")
    assert [row["label"] for row in transfer_set.labelled_rows(task, "films", augmented)] == expected


@pytest.mark.parametrize("rows_per_block", [1, 3, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_encoded_rows_are_on_disk_what_they_are_in_memory(tmp_path, monkeypatch, kind, rows_per_block):
    task, rows, tokenizer = task_of(kind), rows_of(kind), tiny.tokenizer()
    monkeypatch.setattr(transfer_set, "ROWS_PER_BLOCK", rows_per_block)
    data = transfer_set.encode(task, iter(rows), tokenizer, tmp_path)
    expected = inference.encode(task, rows, tokenizer)
    assert data.lengths.tolist() == [len(ids) for ids in expected["input_ids"]]
    assert numbers(data) == list(range(len(data)))
    names = ["input_ids", "attention_mask", "token_type_ids", "label_mask"]
    for number in range(len(data)):
        assert model_inputs(data, number) == {name: expected[name][number] for name in names}
    assert data.logit_counts().tolist() == [sum(mask) for mask in expected["label_mask"]]
    loaded = EncodedRows.load(tmp_path)
    assert all(model_inputs(loaded, number) == model_inputs(data, number) for number in range(len(data)))


def test_rows_that_an_interrupted_run_has_encoded_are_not_encoded_again(tmp_path):
    rows, tokenizer = rows_of("text_classification"), tiny.tokenizer()
    data = transfer_set.encode(TASK, rows, tokenizer, tmp_path)
    for augmented in (True, False):
        again = transfer_set.encode(TASK, (pytest.fail("encoded again") for _ in rows), tokenizer, tmp_path, augmented)
        assert numbers(again) == (numbers(data) if augmented else [0, 3, 6])


@pytest.mark.parametrize("kind", damage.KINDS)
def test_rows_are_encoded_again_if_a_file_of_them_is_damaged(tmp_path, kind):
    rows, tokenizer = rows_of("text_classification"), tiny.tokenizer()
    transfer_set.encode(TASK, rows, tokenizer, tmp_path)
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(whole) >= 6
    for path in whole:
        damage.damage(path, kind)
        data = transfer_set.encode(TASK, rows, tokenizer, tmp_path)
        assert numbers(data) == list(range(len(rows)))
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole


@pytest.mark.parametrize("kind", KINDS)
def test_without_variants_the_rows_and_the_unlabelled_ones_keep_the_numbers_of_their_logits(
    tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(transfer_set, "ROWS_PER_BLOCK", 2)
    task, rows, tokenizer = task_of(kind), rows_of(kind), tiny.tokenizer()
    folders = tmp_path / "whole", tmp_path / "part"
    for folder in folders:
        folder.mkdir()
    whole, part = (
        transfer_set.encode(task, rows, tokenizer, folder, augmented)
        for folder, augmented in zip(folders, (True, False), strict=True)
    )
    windows = len(whole) // len(rows)
    assert numbers(part) == [number for number in range(len(whole)) if number // windows in (0, 3, 6)]
    for index, number in enumerate(numbers(part)):
        assert model_inputs(part, index) == model_inputs(whole, number)
    assert part.lengths.tolist() == whole.lengths[numbers(part)].tolist()
    last = part.select(np.array([1, len(part) - 1]))  # a selection of a selection
    assert numbers(last) == [numbers(part)[1], len(whole) - 1]
    assert last.lengths.tolist() == [len(model_inputs(last, index)["input_ids"]) for index in range(2)]


def test_truncated_rows_are_counted_once_for_all_blocks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transfer_set, "ROWS_PER_BLOCK", 2)
    task = tiny.task(["negative", "positive"], max_length=8)
    transfer_set.encode(task, [{"text": "good " * length} for length in (2, 20, 30, 1, 9)], tiny.tokenizer(), tmp_path)
    assert capsys.readouterr().out == "3 of 5 texts are longer than 8 word pieces (max_length) and are cut\n"


@pytest.mark.parametrize("name", ["distill_intermediate", "distill_prediction"])
def test_no_file_of_the_scratch_folder_is_open_or_mapped_when_it_is_removed(world, monkeypatch, name):
    """Some systems cannot remove it then, and the stage would fail after all its work."""
    seen = []

    class Watched(tempfile.TemporaryDirectory):
        def cleanup(self):
            process = psutil.Process()
            opened = [file.path for file in [*process.open_files(), *process.memory_maps()]]
            seen.append([path for path in opened if Path(path).is_relative_to(Path(self.name).absolute())])
            super().cleanup()

        def __exit__(self, *error):
            self.cleanup()

    stage = importlib.import_module(f"pipeline.{name}")
    monkeypatch.setattr(tempfile, "TemporaryDirectory", Watched)
    stage.main("tiny")
    assert seen and not any(seen)
