"""``python -m pipeline.new_task``: an entry that passes `prepare`, or no change at all."""

import csv
import json
import sys
import time
from pathlib import Path

import pytest
import tiny
from tiny import lines, start_python

from pipeline import new_task, prepare
from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.guessing.columns import Columns

PARAMS = Path("params.yaml")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """``run(*arguments)``: what new_task prints, in a folder with the repository's params.yaml. It reads no general
    texts, which takes seconds, unless the test sets them again.
    """
    (tmp_path / "project" / "data" / "raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    PARAMS.write_bytes((tiny.ROOT / "params.yaml").read_bytes())
    set_general_texts(10000, 0)

    def call(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["new_task", *map(str, arguments)])
        new_task.main()
        return capsys.readouterr().out

    return call


def set_general_texts(before: int, now: int) -> None:
    content = PARAMS.read_bytes()
    assert content.count(b"general_texts: %d\n" % before) == 1
    PARAMS.write_bytes(content.replace(b"general_texts: %d\n" % before, b"general_texts: %d\n" % now))


@pytest.fixture
def reviews(tmp_path) -> Path:
    path = tmp_path / "reviews.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("review", "sentiment"), *tiny.sentences(120, seed=0)])
    return path


def tree() -> dict:
    return {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def test_a_column_that_names_splits_is_used(run, tmp_path):
    names = ["train"] * 80 + ["valid"] * 15 + ["test"] * 25
    path = tmp_path / "reviews.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = [(*row, name) for row, name in zip(tiny.sentences(120, seed=0), names, strict=True)]
        csv.writer(file).writerows([("review", "sentiment", "fold"), *rows])
    said = run("films", "--file", path)
    assert "split_column: 'fold' names the split of each row" in said and "not read: 'fold'" not in said
    assert "test: 25 rows: " in said and "validation: 15 rows: " in said
    assert settings.load().task("films").source.split_column == "fold"
    with pytest.raises(UserError, match="^--test: column 'fold' of --file names the split of each row, too: put all"):
        run("again", "--file", path, "--test", path)
    path.write_text(path.read_text().replace(",valid\n", ",other\n"))  # one row in eight
    with pytest.raises(UserError, match="^--file: column 'fold' names the split of most rows, and 'other' is none"):
        run("again", "--file", path)


def test_a_folder_in_place_of_a_file_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="^--file: .* is a folder: name a file in it, and others by --validation and"):
        run("films", "--file", tmp_path)


def test_the_entry_is_complete_and_says_what_was_guessed(run, reviews):
    set_general_texts(0, 10000)
    before = PARAMS.read_text()
    said = run("films", "--file", reviews)
    assert "kind: text_classification" in said
    assert "label: column 'sentiment' (2 values: positive 60, negative 60)" in said
    assert "max_length: 32 (95 % of the texts have at most " in said
    assert f"{reviews}: copied to data/raw/films/reviews.csv" in said
    assert Path("data/raw/films/reviews.csv").read_bytes() == reviews.read_bytes()
    assert Path("data/raw/films/README.md").exists()
    after = PARAMS.read_text()
    assert after.startswith(before)  # with its comments and its layout
    assert (
        after[len(before) :]
        == """
  films:
    kind: text_classification
    options:
    source:
      location: data/raw/films/reviews.csv
      text: review
      label: sentiment
    unlabelled:
    metric: accuracy
    max_length: 32
    general_student:
    finetune_teacher:
    augment:
    distill_intermediate:
    distill_prediction:
    finetune_student:
    evaluate:
    export:
    benchmark:
    package:
"""
    )


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_a_file_of_each_kind_becomes_a_task_that_prepare_takes(run, tmp_path, kind, capsys):
    entry = tiny.write_kind(tmp_path, kind)
    [file] = [path for path in tmp_path.rglob("*.jsonl") if path.name == Path(entry["source"]["location"]).name]
    [text] = [path for path in tmp_path.rglob("*.jsonl") if path.name == Path(entry["unlabelled"]["location"]).name]
    columns = ["--text", "one", "--pair", "two"] if kind == "text_classification" else []
    run(f"my-{kind}", "--file", file, "--unlabelled", text, *columns)
    configuration = settings.load()
    made = configuration.task(f"my-{kind}")
    assert (made.kind, made.metric, made.options or None) == (kind, entry["metric"], entry["options"])
    shape = configuration.of("general_student", f"my-{kind}").shape
    is_narrow = kind in ("text_classification", "named_entities", "question_answering")  # the first has pairs
    own = configuration.general_student.shape
    expected = own.model_copy(update={"layers": 6, "feed_forward": own.hidden // 2}) if is_narrow else own
    assert shape == expected
    steps = configuration.of("distill_prediction", f"my-{kind}").min_steps
    assert steps == (3000 if kind == "named_entities" else configuration.distill_prediction.min_steps)
    task, parts, _, unlabelled = prepare.load_rows(configuration, f"my-{kind}")
    assert {name: len(rows) > 0 for name, rows in parts.items()} == dict.fromkeys(("train", "validation", "test"), True)
    assert len(unlabelled) > 30 and not {"label", "tags", "answers"} & unlabelled[0].keys()


def test_conll_columns_go_by_number(run, tmp_path):
    sentence = "Ada NNP B-PER\nLovelace NNP I-PER\nwas VBD O\nat NN O\nhome{} NN O\n\n"
    file = tmp_path / "train.conll"
    file.write_text("".join(sentence.format(number) for number in range(60)))
    run("names", "--file", file)
    source = settings.load().task("names").source
    assert (source.words, source.tags, source.scheme) == (1, 3, "IOB2")


def test_files_of_their_own_are_the_splits(run, reviews):
    test = reviews.with_name("test.csv")
    rows = [("review", "sentiment"), *tiny.sentences(140, seed=0)[120:]]
    with open(test, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    run("films", "--file", reviews, "--test", test)
    source = settings.load().task("films").source
    assert source.location == "data/raw/films"
    assert source.splits == {"train": "reviews.csv", "test": "test.csv"}


@pytest.mark.parametrize("given", ["\\t", "tab", "\t"])
def test_a_tab_may_be_given_by_name(run, reviews, given):
    reviews.write_text(
        "".join(f"{text}\t{label}\n" for text, label in [("review", "sentiment"), *tiny.sentences(90, 0)])
    )
    run("films", "--file", reviews, "--delimiter", given)
    assert settings.load().task("films").source.delimiter == "\t"


def test_a_delimiter_of_two_characters_is_refused(run, reviews, capsys):
    with pytest.raises(SystemExit):
        run("films", "--file", reviews, "--delimiter", "||")
    assert "argument --delimiter: '||': expected one character, or tab" in capsys.readouterr().err


def test_rows_of_only_delimiters_are_no_rows(run, reviews):
    reviews.write_text(reviews.read_text() + ",\n" * 3)
    assert "train: 120 rows read" in run("films", "--file", reviews)


def test_a_table_in_a_text_file_is_refused_with_the_names_to_give_it(run, tmp_path):
    path = tiny.write_file(tmp_path / "train.txt", b"Ada B-PER\nwas O\n\n")
    with pytest.raises(UserError, match="train.txt: a .txt file has one text on each line: rename it to .conll"):
        run("entities", "--file", path)


def test_a_delimiter_is_found(run, reviews):
    reviews.write_text(
        "".join(f"{text};{label}\n" for text, label in [("review", "sentiment"), *tiny.sentences(90, 0)])
    )
    assert "delimiter: ';'" in run("films", "--file", reviews)
    assert settings.load().task("films").source.delimiter == ";"


def test_the_delimiter_of_unlabelled_texts_is_found(run, reviews):
    more = reviews.with_name("more.csv")
    cells = [(text.replace(",", ""), label) for text, label in tiny.sentences(90, 0)]
    for delimiter in ",;":
        rows = [f"{text}{delimiter}{label}" for text, label in [("review", "id"), *cells]]
        more.write_text("\n".join(rows), encoding="utf-8")
        run("films", "--file", reviews, "--unlabelled", more, "--replace")
        unlabelled = settings.load().task("films").unlabelled
        assert (unlabelled.delimiter or ",", unlabelled.text) == (delimiter, "review")
        Path("data/raw/films/more.csv").unlink()
    more.write_text("review,id\n" + "a film, and more,1\n" * 20, encoding="utf-8")
    with pytest.raises(UserError, match="line 2: 3 fields, the header has 2"):
        run("films", "--file", reviews, "--unlabelled", more, "--replace")


def test_the_group_may_be_a_column_that_the_task_reads(run, tmp_path):
    file = tmp_path / "pairs.csv"
    with open(file, "w", encoding="utf-8", newline="") as out:
        rows = [(text, f"{text} again", label) for text, label in tiny.sentences(90, 0)]
        csv.writer(out).writerows([("sentence1", "sentence2", "label"), *rows])
    said = run("pairs", "--file", file, "--group", "sentence1")
    source = settings.load().task("pairs").source
    assert (source.text, source.pair, source.group) == ("sentence1", "sentence2", "sentence1")
    assert "not read" not in said


def test_the_delimiter_that_gives_the_most_columns_is_taken(run, reviews):
    rows = [f"{text};2,{label};{label}" for text, label in tiny.sentences(90, 0)]
    reviews.write_text("\n".join(["comment;grade, 1-6;label", *rows]), encoding="utf-8")
    run("films", "--file", reviews)
    source = settings.load().task("films").source
    assert (source.delimiter, source.text, source.label) == (";", "comment", "label")


def test_quotes_around_all_texts_are_not_read_as_texts(run, reviews):
    rows = [f'"{text}","{label}"' for text, label in tiny.sentences(90, 0)]
    reviews.write_text("\n".join(['"text","label"', *rows, '"He said "hi" to me","0"\n']), encoding="utf-8")
    with pytest.raises(UserError, match="line 92: a quote does not close"):
        run("films", "--file", reviews)


def test_columns_that_are_not_read_are_named_and_answers_of_prodigy_are_doubted(run, tmp_path):
    rows = [
        {"text": text, "label": label, "answer": "accept" if number % 3 else "ignore", "_input_hash": number}
        for number, (text, label) in enumerate(tiny.sentences(90, 0))
    ]
    file = tiny.write_file(tmp_path / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    said = run("films", "--file", file, "--label", "label")
    assert "DOUBTFUL: 'answer' has rows that were rejected or ignored: set `where: {answer: accept}`" in said
    assert "not read: '_input_hash'" in said


def test_long_unlabelled_texts_are_cut_into_sentences(run, reviews):
    texts = [text for text, _ in tiny.sentences(120, seed=9)]
    documents = reviews.with_name("documents.jsonl")
    documents.write_text("".join(json.dumps({"body": " ".join(texts[n : n + 12])}) + "\n" for n in range(0, 120, 12)))
    assert "cut into sentences" in run("films", "--file", reviews, "--unlabelled", documents)
    unlabelled = settings.load().task("films").unlabelled
    assert (unlabelled.text, unlabelled.sentences) == ("body", True)


def test_unlabelled_texts_may_be_the_lines_of_a_text_file(run, reviews):
    lines = reviews.with_name("more.txt")
    lines.write_text("".join(f"{text}\n" for text, _ in tiny.sentences(90, seed=9)))
    assert "unlabelled: columns text (90 rows)" in run("films", "--file", reviews, "--unlabelled", lines)
    assert len(prepare.load_rows(settings.load(), "films").unlabelled) > 80


def test_an_entry_is_written_anew_on_request(run, reviews):
    before = Path("params.yaml").read_text()
    run("package", "--file", reviews)  # also the name of a group in each entry
    with open("params.yaml", "a") as file:
        file.write("\n  # a comment on the next task\n")
    run("genres", "--file", reviews)
    assert "mcc" in run("package", "--file", reviews, "--metric", "mcc", "--replace")
    tasks = settings.load().tasks
    assert (tasks["package"].metric, tasks["genres"].metric) == ("mcc", "accuracy")
    after = Path("params.yaml").read_text()
    assert after.startswith(before) and after.count("  # a comment on the next task\n") == 1
    run("genres", "--file", reviews, "--replace")
    assert Path("params.yaml").read_text().startswith(before)


def test_a_second_column_of_classes_is_named(run, tmp_path):
    file = tmp_path / "tickets.tsv"
    lines = ["body\tpriority\tcategory"]
    for number, (text, label) in enumerate(tiny.sentences(90, seed=3)):
        lines.append(f"{text}\t{'high' if number % 3 else 'low'}\t{label}")
    file.write_text("\n".join(lines))
    said = run("tickets", "--file", file)
    assert "label: column 'category' (by its name, 2 values" in said
    assert "not read: 'priority': classes, too: --label names the column that is the label" in said
    said = run("others", "--file", file, "--label", "priority", "--text", "body")
    assert "label: column 'priority' (as given, 2 values" in said and "text: 'body' (as given; " in said


def test_options_override_guesses(run, reviews):
    said = run("films", "--file", reviews, "--metric", "mcc", "--max-length", 100, "--label", "sentiment")
    assert "max_length: 100 (as given)" in said and "metric: mcc (as given)" in said and "accuracy" not in said
    task = settings.load().task("films")
    assert (task.metric, task.max_length) == ("mcc", 100)


def test_run_is_changed_only_if_asked(run, reviews):
    run("films", "--file", reviews)
    assert settings.load().run == ["rotten_tomatoes"]
    run("reviews", "--file", reviews, "--run")
    assert settings.load().run == ["reviews"]
    assert "run: [reviews]  # " in PARAMS.read_text()


@pytest.mark.parametrize("run_list", ["run: [a,\n  b]  # two\n", "run:\n- a\n- b\n", "run: # two\n  - a\n\n  - b\n"])
def test_each_form_of_the_list_run_is_changed(run_list):
    changed = new_task.entry.with_run(f"# top\n{run_list}seed: 1\n", "films")
    assert changed.startswith("# top\nrun: [films]") and changed.endswith("\nseed: 1\n") and "- b" not in changed


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tasks_may_stand_before_other_groups(newline):
    before = newline.join(["tasks:", "    one:", "        kind: x", ""])
    after = newline.join(["", "# of all training", "seed: 1", ""])
    made = new_task.entry.with_entry(before + after, "two", {"kind": "regression"})
    assert made.startswith(before + f"{newline}    two:{newline}      kind: regression{newline}")
    assert made.endswith(f"      package:{newline}" + after)


def test_a_file_in_its_place_is_not_copied(run, reviews):
    Path("data/raw/films").mkdir(parents=True)
    there = reviews.rename("data/raw/films/reviews.csv")
    assert "copied" not in run("films", "--file", there)
    assert settings.load().task("films").source.location == "data/raw/films/reviews.csv"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cola"], "cola: params.yaml has this task already: choose another name, or give --replace"),
        (["raw"], "raw: expected a name of letters, digits, _ and -"),
        (["f" * 101], "f: expected a name of letters, digits, _ and - (at most 100; "),
        (["my films"], "my films: expected a name of letters, digits, _ and -"),
        (["films", "--label", "stars"], "--label: {file} has no column 'stars' (it has: review, sentiment)"),
        (["films", "--metric", "f1"], "tasks.films.metric: expected one of accuracy, macro_f1, mcc"),
        (["films", "--file", "nowhere.csv"], "--file: there is no file nowhere.csv"),
        (["films", "--max-length", "4"], "tasks.films.max_length: expected "),
        (["films", "--max-length", "0"], "tasks.films.max_length: expected "),
        (["films", "--kind", "regression"], "label: no column holds different numbers: give --label COLUMN"),
        (["films", "--unlabelled", "nowhere.csv"], "--unlabelled: there is no file nowhere.csv"),
    ],
)
def test_nothing_is_written_if_anything_is_wrong(run, reviews, arguments, message):
    before = tree()
    with pytest.raises(UserError) as raised:
        run(*arguments[:1], "--file", reviews, *arguments[1:])
    assert message.format(file=reviews) in str(raised.value)
    assert tree() == before


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", [], "the file is empty: expected a header"),
        (b"text,label\n", [], "expected rows and at least 2 columns"),
        (b"text\na film\na plot\n", [], "expected rows and at least 2 columns"),
        (b"\x89PNG\r\n\x1a\n\xff", [], "not UTF-8"),
        (b"text,label,text\na,b,c\n", [], "the column 'text' occurs twice in the header"),
        (
            b"a,b\none two,x\none two,y\n" * 9,
            ["--kind", "text_classification", "--label", "a", "b"],
            "only multi_label",
        ),
        (b"a,b\none two,x\n", ["--kind", "named_entities", "--words", "a", "--tags", "b"], "'a' does not hold lists"),
        (b"a,b,c\no o,x y,\n", ["--kind", "question_answering", "--answers", "c"], "'c' does not hold answers"),
        (b"a,b,c\no o,x y,\n", ["--kind", "multi_label", "--label", "c"], "column 'c' has no lists"),
    ],
)
def test_a_file_that_is_no_table_of_the_kind_is_refused(run, tmp_path, content, arguments, message):
    path = tiny.write_file(tmp_path / "odd.csv", content)
    before = tree()
    with pytest.raises(UserError, match=message):
        run("odd", "--file", path, *arguments)
    assert tree() == before


@pytest.mark.parametrize("column", ["it's", "# no comment", "a: b", "two\nlines", '"', "null", "1e5", "- x", "{a}"])
def test_odd_names_of_columns_and_labels_are_kept(run, tmp_path, column):
    path, labels = tmp_path / "odd.csv", {"positive": "yes", "negative": "null"}
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(
            [(column, "label"), *((text, labels[label]) for text, label in tiny.sentences(90, 0))]
        )
    run("odd", "--file", path)
    assert settings.load().tasks["odd"].source.text == column


@pytest.mark.parametrize("name", ["123", "null", "1e5", "yes", "é_1"])
def test_a_name_that_yaml_would_not_read_as_text_is_quoted(run, reviews, name):
    run(name, "--file", reviews, "--run")
    assert settings.load().run == [name] and name in settings.load().tasks


def test_many_columns_of_classes_take_seconds():
    names = [f"class{number}" for number in range(2000)]
    records = [
        {name: row % 2 if number % 2 else "ab"[row % 3 == 0] for number, name in enumerate(names)} for row in range(60)
    ]
    begin = time.process_time()
    assert names[1] in Columns(records, {}, kind_is_given=False).class_columns()
    assert time.process_time() - begin < 5


def test_a_bad_row_is_named_and_nothing_is_written(run, reviews):
    reviews.write_text(reviews.read_text() + '"",positive\n')
    Path("data/raw/films").mkdir(parents=True)
    Path("data/raw/films/notes.txt").write_text("mine")
    before = tree()
    expected = (
        r"reviews.csv, line 122: column 'review': empty text: .* or give --bad-rows drop, which .*nothing is written"
    )
    with pytest.raises(UserError, match=expected):
        run("films", "--file", reviews)
    assert tree() == before


def test_bad_rows_are_dropped_if_asked(run, reviews):
    reviews.write_text(reviews.read_text() + '"",positive\n')
    said = run("films", "--file", reviews, "--bad-rows", "drop")
    assert "train: 1 of 121 rows are invalid and dropped (`bad_rows: drop`)" in said
    assert settings.load().tasks["films"].source.bad_rows == "drop"


def test_another_file_of_the_same_name_is_not_overwritten(run, reviews):
    Path("data/raw/films").mkdir(parents=True)
    Path("data/raw/films/reviews.csv").write_text("mine")
    before = tree()
    with pytest.raises(UserError, match="data/raw/films/reviews.csv is there already"):
        run("films", "--file", reviews)
    assert tree() == before


def test_an_error_is_one_line_with_exit_code_1(run, reviews):
    process = start_python("-m", "pipeline.new_task", "cola", "--file", str(reviews))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert lines(said) == ["new_task: cola: params.yaml has this task already: choose another name, or give --replace"]


def test_entities_from_an_annotation_tool_become_words_and_tags(run, tmp_path):
    rows = [{"id": n, "text": text, "label": [[4, 8, "word"]]} for n, (text, _) in enumerate(tiny.sentences(90, 0))]
    path = tmp_path / "doccano.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = run("people", "--file", path)
    assert "entities: column 'label' (90 entities by their characters: word 90)" in said
    [first, *_] = prepare.load_rows(settings.load(), "people").parts["train"]
    assert set(first["tags"]) <= {"O", "B-word", "I-word"} and len(first["words"]) == len(first["tags"])
