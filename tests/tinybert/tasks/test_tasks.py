"""Behaviour that tasks of all kinds share."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.preparation.records import check_source


def test_an_unknown_kind_is_refused_and_the_kinds_are_listed():
    with pytest.raises(UserError, match=r"tasks.tiny.kind: expected one of text_classification, .* found 'sorting'"):
        tiny.task([], kind="sorting")


@pytest.mark.parametrize(
    ("kind", "options", "metrics"),
    [
        ("text_classification", {}, "accuracy, macro_f1, mcc"),
        ("regression", {}, "pearson_spearman, pearson, spearman"),
        ("multi_label", {}, "micro_f1, macro_f1"),
        ("named_entities", {}, "f1, precision, recall"),
        ("question_answering", {}, "f1, exact_match"),
        (
            "question_answering",
            {"unanswerable": True},
            "f1, exact_match, f1_with_answer, exact_match_with_answer, without_answer",
        ),
    ],
)
def test_an_unknown_metric_is_refused_and_the_metrics_are_listed(kind, options, metrics):
    with pytest.raises(UserError, match=f"tasks.tiny.metric: expected one of {metrics} for {kind}, found 'bleu'"):
        tiny.task([], "bleu", kind=kind, **options)
    for metric in metrics.split(", "):
        assert tiny.task([], metric, kind=kind, **options).metric == metric


def test_an_option_of_another_kind_is_refused():
    with pytest.raises(UserError, match="tasks.tiny.options.stride: unknown setting"):
        tiny.task([], stride=3)
    with pytest.raises(UserError, match="options.strid: unknown setting; did you mean 'stride'"):
        tiny.task([], "f1", kind="question_answering", strid=3)


@pytest.mark.parametrize(
    ("kind", "metric", "setting"),
    [
        ("text_classification", "accuracy", {"tags": "tags"}),
        ("text_classification", "accuracy", {"scheme": "IOB1"}),
        ("regression", "pearson", {"labels": {"a": 1}}),
        ("named_entities", "f1", {"pair": "other"}),
        ("question_answering", "f1", {"label": "label"}),
    ],
)
def test_a_source_setting_that_the_kind_does_not_read_is_refused(kind, metric, setting):
    source = Source(location="x", **setting)
    with pytest.raises(UserError, match=f"^key.{next(iter(setting))}: this kind of task reads only"):
        check_source(tiny.task([], metric, kind=kind), source, "key")


@pytest.mark.parametrize(("kind", "metric"), [("text_classification", "accuracy"), ("regression", "pearson")])
def test_only_multi_label_accepts_several_label_columns(kind, metric):
    source = Source(location="x", label=["a", "b"])
    with pytest.raises(UserError, match="^key.label: expected one column, found a list"):
        check_source(tiny.task([], metric, kind=kind), source, "key")
    check_source(tiny.task([], "micro_f1", kind="multi_label"), source, "key")


@pytest.mark.parametrize("kind", ["named_entities", "question_answering"])
def test_submissions_are_refused_for_kinds_without_a_submission_format(kind):
    source = Source(location="x", submissions={"a.tsv": "test"})
    with pytest.raises(UserError, match="^key.submissions: this kind of task has no submission files"):
        check_source(tiny.task([], "f1", kind=kind), source, "key")


@pytest.fixture
def prepared(tmp_path, monkeypatch) -> Path:
    """Where `prepare` writes the labels of the task tiny, in a folder with its params.yaml."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny.ROOT / "params.yaml", tmp_path)
    tiny.write_params(Path("params.yaml"), **{"tasks.tiny.metric": "mcc", "tasks.tiny.max_length": 77})
    folder = Path("data/tiny/prepared")
    folder.mkdir(parents=True)
    return folder


def test_a_loaded_task_equals_the_saved_one(prepared):
    configuration = settings.load()
    tasks.save(tasks.create(configuration.task("tiny"), "tiny", ["é", "b"]), prepared / "task.json")
    loaded = tasks.load(configuration, "tiny")
    assert type(loaded) is tasks.KINDS["text_classification"]
    assert (loaded.labels, loaded.metric, loaded.max_length) == (["é", "b"], "mcc", 77)


@pytest.mark.parametrize("content", ["", '{"labels": [', "[]", "{}"])
def test_a_damaged_file_of_labels_is_named_with_what_to_do(prepared, content):
    (prepared / "task.json").write_text(content)
    with pytest.raises(UserError, match="task.json is damaged: run `dvc repro`, which writes it again"):
        tasks.load(settings.load(), "tiny")


def test_the_surest_mistake_of_each_row_is_what_the_model_gets_most_wrong():
    logits = [np.array([[2.0, 0.0]]), np.array([[0.0, 1.0]])]
    rows = [{"text": "a", "label": "negative"}, {"text": "b", "label": "negative"}]
    classes = tiny.task(["negative", "positive"])
    assert classes.surest_mistakes(rows, ["negative", "positive"], logits) == pytest.approx([0, 0.7311], abs=1e-4)
    labels = tiny.task(["negative", "positive"], "micro_f1", kind="multi_label")
    of_sets = [{"text": "a", "label": ["negative"]}, {"text": "b", "label": ["negative"]}]
    found = labels.surest_mistakes(of_sets, [["negative", "positive"], ["positive"]], logits)
    assert found == pytest.approx([0.5, 0.7311], abs=1e-4)
    numbers = tiny.task(["score"], "pearson", kind="regression")
    assert numbers.surest_mistakes([{"text": "a", "label": 1.0}], [3.5], [np.array([[3.5]])]) == pytest.approx([2.5])
    tags = tiny.task(["O", "B-PER", "I-PER"], "f1", kind="named_entities")
    words = [{"words": ["Ann", "is"], "tags": ["B-PER", "O"]}, {"words": ["so"], "tags": ["O"]}]
    values = [np.array([[0.0, 3.0, 0.0], [0.0, 2.0, 0.0]]), np.array([[3.0, 0.0, 0.0]])]
    assert tags.surest_mistakes(words, [["B-PER", "B-PER"], ["O"]], values) == pytest.approx([0.787, 0], abs=1e-3)


def test_an_answer_is_kept_as_its_place_in_the_passage():
    questions = tiny.task([], "f1", kind="question_answering", unanswerable=True)
    assert questions.without_text({"text": "warm", "start": 7}) == [7, 11]
    assert questions.without_text({"text": "", "start": 0}) is None
