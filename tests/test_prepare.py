import json
from pathlib import Path

import pytest
import tiny
from transformers import BertForSequenceClassification, BertModel, GPT2Config

from pipeline import finetune_teacher, prepare
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.cost.speed import Machine, Speed
from pipeline.tinybert.data import rows

SOURCE = "tasks.tiny.source"
RAW = "data/raw/tiny"
TEACHER = "finetune_teacher.checkpoint"
MEASURED = Machine.speed


def records(count: int, seed: int = 0) -> list[dict]:
    return [{"text": text, "label": label} for text, label in tiny.sentences(count, seed)]


@pytest.fixture
def run_check(tmp_path, monkeypatch, capsys):
    """``run_check(train=[…], …)``: the lines that `prepare --check` logs for these splits. It writes nothing. The
    machine's speed is not measured.
    """
    monkeypatch.setattr(Machine, "speed", lambda *settings: Speed(per_batch=0, per_piece=1e-6, per_squared_length=0))
    (tmp_path / "params.yaml").write_text((tiny.ROOT / "params.yaml").read_text())
    tiny.write_world(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(submission: tuple = (), unlabelled: dict | None = None, **splits: list[dict]) -> list[str]:
        for name, part in [*splits.items(), ("new", submission)]:
            Path(RAW, f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in part))
        source = {"location": RAW, "splits": {name: f"{name}.jsonl" for name in splits}}
        if submission:
            source["submissions"] = {"new.tsv": "new.jsonl"}
        more = {"tasks.tiny.unlabelled": unlabelled} if unlabelled else {}
        tiny.write_params(Path("params.yaml"), **{SOURCE: source, **more})
        before = sorted(Path().rglob("*"))
        prepare.main("tiny", check=True)
        assert sorted(Path().rglob("*")) == before
        return capsys.readouterr().out.splitlines()

    return run


def test_check_logs_rows_labels_duplicates_overlap_and_lengths(run_check, monkeypatch):
    monkeypatch.setattr(Machine, "speed", MEASURED)
    train, test = records(60), records(70)[60:]
    logged = run_check(train=[*train, train[0], test[0]], test=test, submission=({"text": "a film"},))
    assert {
        "train: 62 rows read",
        "new.tsv: 1 rows read",
        "test: 10 rows: negative 5, positive 5",
        "train: 1 duplicate rows dropped: their text occurs earlier",
        "train: 1 duplicate rows dropped: their text is also in test",
    } <= set(logged)
    assert any(line.startswith("validation: 6 rows: ") for line in logged)
    for part in ("train", "validation", "test", "new.tsv", "unlabelled"):
        assert any(line.startswith(f"{part}: ") and "word pieces per row: median" in line for line in logged)
    assert any(line.startswith("  finetune_teacher: ") and " steps: 54 rows" in line for line in logged)
    assert any("10 rows are few: a score of 80 % has a 95 % interval of ±25 points" in line for line in logged)


def test_check_cuts_only_so_many_sentences_of_unlabelled_text_and_says_so(run_check, monkeypatch):
    monkeypatch.setattr(prepare, "SENTENCES_CHECKED", 5)
    text = "\n".join(text for text, _ in tiny.sentences(40, 7))
    Path("data/raw/tiny/long.jsonl").write_text(json.dumps({"text": text}))
    source = {"location": "data/raw/tiny/long.jsonl", "text": "text", "sentences": True}
    for limit, checked in ((6, True), (5, False)):
        logged = run_check(train=records(60), unlabelled={**source, "limit": limit})
        assert any("tasks.tiny.unlabelled: at most 5 sentences are checked" in line for line in logged) == checked
        assert "unlabelled: 5 rows" in logged


def test_written_rows_have_no_internal_fields(run_check, tmp_path):
    run_check(train=records(60), test=records(70)[60:])
    prepare.main("tiny")
    for file in ("train", "validation", "test"):
        rows = [json.loads(line) for line in Path("data/tiny/prepared", f"{file}.jsonl").read_text().splitlines()]
        assert rows and all(row.keys() == {"id", "text", "label"} for row in rows)


def test_check_reports_the_bad_rows_of_every_file(run_check):
    bad = {"text": "", "label": "positive"}
    with pytest.raises(UserError) as raised:
        run_check(train=[*records(60), bad], test=[bad, *records(4)], submission=({"text": ""},))
    assert str(raised.value) == (
        f"{SOURCE}: train.jsonl, line 61: column 'text': empty text; "
        f"{SOURCE}: test.jsonl, line 1: column 'text': empty text; "
        f"{SOURCE}: new.jsonl, line 1: column 'text': empty text: correct or remove these rows, or set"
        f" {SOURCE}.bad_rows: drop, which leaves them out and counts them"
    )


def test_check_reports_bad_rows_of_one_file_and_a_missing_column_of_another(run_check):
    with pytest.raises(UserError) as raised:
        run_check(
            train=[*records(60), {"text": "", "label": "positive"}], test=[{"review": "a film", "label": "positive"}]
        )
    assert f"{SOURCE}: train.jsonl, line 61: column 'text': empty text; {SOURCE}: " in str(raised.value)
    assert "test.jsonl has no column 'text'" in str(raised.value)


def test_a_test_split_that_the_own_teacher_may_have_seen_is_said(run_check):
    tiny.write_params(Path("params.yaml"), **{TEACHER: "hub:owner/name@" + "0" * 40})
    assert not any("DOUBTFUL" in line for line in run_check(train=records(60), test=records(70)[60:]))
    assert any(
        line.startswith("test: DOUBTFUL: finetune_teacher.checkpoint is your own")
        for line in run_check(train=records(60))
    )


@pytest.mark.parametrize("start", ["layers", "distillation", "checkpoint"])
def test_only_a_student_of_layers_depends_on_the_rows(run_check, start):
    """General distillation takes long: new rows must not repeat it."""
    run_check(train=records(60))
    tiny.write_params(Path("params.yaml"), **{"general_student.start": start})
    prepare.main("tiny")
    found = list(rows.read("data/tiny/narrowing.jsonl", may_be_empty=True))
    train = list(rows.read("data/tiny/prepared/train.jsonl"))
    by_id = {row["id"]: row for row in train}
    assert all(by_id[row["id"]]["text"] == row["text"] for row in found)
    assert len(found) == (len(train) if start == "layers" else 0)


def test_rows_for_narrowing_are_limited(run_check, monkeypatch):
    monkeypatch.setattr(prepare, "ROWS_FOR_NARROWING", 20)
    run_check(train=records(60))
    prepare.main("tiny")
    assert len({row["id"] for row in rows.read("data/tiny/narrowing.jsonl")}) == 20


def test_test_rows_are_not_drawn_from_rows_that_the_own_teacher_may_have_seen_if_a_column_names_splits(run_check):
    run_check(train=records(60))
    tiny.write_params(Path("params.yaml"), **{TEACHER: "hub:owner/name@" + "0" * 40})
    source = {"location": f"{RAW}/train.jsonl", "split_column": "fold"}
    tiny.write_params(Path("params.yaml"), **{SOURCE: source})
    for other in ("dev", "test"):
        labelled = [{**record, "fold": "train" if number % 5 else other} for number, record in enumerate(records(60))]
        Path(RAW, "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in labelled))
        if other == "test":
            prepare.main("tiny")
        else:
            with pytest.raises(
                UserError, match=f"^{TEACHER}: your own teacher may have been trained .* column 'fold'$"
            ):
                prepare.main("tiny")


def own_teacher() -> dict[str, str]:
    prepare.main("tiny")
    return json.loads(Path("data/tiny/own_teacher.json").read_text())


@pytest.mark.parametrize(
    ("kind", "source", "changes", "expected"),
    [
        ("text_classification", {"pair": None}, {}, 7),
        ("named_entities", {}, {}, 7),
        ("text_classification", {}, {}, 0),  # pairs
        ("question_answering", {}, {}, 0),
        ("regression", {}, {"augment": {"general_texts": 0}}, 0),
        ("regression", {}, {"augment": {"general_texts": 5}}, 5),
    ],
)
def test_a_task_of_single_texts_without_unlabelled_text_gets_general_texts(run_check, kind, source, changes, expected):
    settings = {f"tasks.{kind}.{key}": value for key, value in {"unlabelled": None, **changes}.items()}
    settings |= {f"tasks.{kind}.source.{key}": value for key, value in source.items()}
    tiny.write_task(Path(), kind, **settings, **{"augment.general_texts": 7})
    prepare.main(kind)
    rows = [json.loads(line) for line in Path("data", kind, "unlabelled", "rows.jsonl").read_text().splitlines()]
    assert len(rows) == expected
    field = "words" if kind == "named_entities" else "text"
    assert all(row[field] for row in rows)


def test_the_files_of_the_own_teacher_are_written_as_hashes(run_check):
    run_check(train=records(60), test=records(70)[60:])
    assert own_teacher() == {}
    weights = Path(RAW, "teacher", "of films", "model.safetensors")
    weights.parent.mkdir(parents=True)
    weights.write_text("old")
    old = own_teacher()
    weights.write_text("new")
    assert old.keys() == own_teacher().keys() == {"of films/model.safetensors"}
    assert old != own_teacher()


def write_own_teacher(names: dict[int, str] | None, kind: type = BertForSequenceClassification) -> Path:
    folder = Path(RAW, "teacher")
    tiny.write_checkpoint(folder, kind, layers=1, id2label=names)
    tiny.write_params(Path("params.yaml"), **{TEACHER: str(folder)})
    return folder


def test_a_check_doubts_an_own_teacher_whose_files_disagree_how_text_is_read(run_check, capsys):
    run_check(train=records(60), test=records(70)[60:])
    folder = write_own_teacher({0: "positive", 1: "negative"})
    prepare.main("tiny", check=True)
    assert "doubtful" not in capsys.readouterr().out
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_lower_case": False}))
    prepare.main("tiny", check=True)
    assert f"{TEACHER}: DOUBTFUL: 'Good" in capsys.readouterr().out


def test_a_check_refuses_an_own_teacher_outside_its_folder(run_check):
    run_check(train=records(60), test=records(70)[60:])
    Path(RAW, "own").mkdir()
    for changes in ({TEACHER: f"{RAW}/own"}, {"tasks.tiny.finetune_teacher": {"checkpoint": f"{RAW}/own"}}):
        tiny.write_params(Path("params.yaml"), **{TEACHER: None, **changes})
        with pytest.raises(UserError, match=f"^{TEACHER}: {RAW}/own is not in {RAW}/teacher, on which the stage"):
            prepare.main("tiny", check=True)


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        (
            BertForSequenceClassification,
            {0: "bad", 1: "good"},
            "has the labels bad, good .* the task has negative, pos",
        ),
        (BertModel, None, "holds a BertModel, expected a BertForSequenceClassification"),
    ],
)
def test_a_check_refuses_an_own_teacher_that_does_not_fit_the_task(run_check, kind, names, message):
    run_check(train=records(60), test=records(70)[60:])
    folder = write_own_teacher(names, kind)
    with pytest.raises(UserError, match=f"^{TEACHER}: {folder} {message}"):
        prepare.main("tiny", check=True)


@pytest.mark.parametrize("count", [1, 2])
def test_a_check_refuses_an_encoder_of_the_teacher_as_the_stage_does(run_check, count):
    run_check(train=records(60), test=records(70)[60:])
    folders = ["data/raw/finetune_teacher/bert", "data/raw/finetune_teacher/gpt2"]
    tiny.write_family(Path(folders[0]), "bert")
    GPT2Config().save_pretrained(folders[1])
    tiny.write_params(Path("params.yaml"), **{"finetune_teacher.encoder": folders[-count:]})
    prepare.main("tiny")
    with pytest.raises(UserError, match="^finetune_teacher.encoder: model family 'gpt2' is not supported") as checked:
        prepare.main("tiny", check=True)
    with pytest.raises(UserError) as of_stage:
        finetune_teacher.main("tiny")
    assert str(checked.value) == str(of_stage.value)


def test_a_check_reads_the_file_of_predictions(run_check, capsys):
    run_check(train=records(60), test=records(70)[60:])
    file = tiny.write_file(Path(RAW, "teacher", "answers.csv"), "id,negative,positive\ntrain-0,high,low\n")
    tiny.write_params(Path("params.yaml"), **{"finetune_teacher.predictions": str(file)})
    with pytest.raises(UserError, match="^finetune_teacher.predictions: answers.csv, line 2: 'negative': expected a n"):
        prepare.main("tiny", check=True)
    texts = [record["text"] for record in records(160)]  # all of rows.csv
    file.write_text("".join(["text,label\n", *(f'"{text}",positive\n' for text in texts), "another,negative\n"]))
    prepare.main("tiny", check=True)
    logged = capsys.readouterr().out.splitlines()
    found = "112 of 112 rows of train, 16 of 16 rows of validation, 32 of 32 rows of test, 0 of 60 rows of unlabelled"
    assert f"answers.csv has predictions for {found}" in logged
    assert "1 of 161 rows of answers.csv fit no row of train, validation, test, unlabelled: line 162" in logged
    assert any(line.startswith("  distill_prediction: ") and ": 112 rows, " in line for line in logged)
