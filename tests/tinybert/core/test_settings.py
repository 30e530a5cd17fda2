"""params.yaml: every wrong key is named, with what was expected there; a task's own values count."""

import copy
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pydantic
import pytest
import ruamel.yaml
from dvc.utils import hydra

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, yaml_file
from pipeline.tinybert.core.errors import UserError

ROOT = Path(__file__).parents[3]
YAML = ruamel.yaml.YAML(typ="safe", pure=True)
PARAMS = YAML.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
TASK = PARAMS["run"][0]
OWN = f"tasks.{TASK}"


def group_in(annotation) -> type[settings.Group] | None:
    """The group of settings that a field holds, as ``Text | None`` does."""
    kinds = [annotation, *typing.get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, settings.Group)), None)


def groups(kind: type[settings.Group], found: dict, prefix: str = "") -> Iterator[tuple[str, type[settings.Group]]]:
    """(dotted prefix, type) of every group that params.yaml holds, however deep."""
    yield prefix, kind
    for key, field in kind.model_fields.items():
        inner, value = group_in(field.annotation), found.get(key)
        if key == "tasks":
            yield from groups(settings.Task, value[TASK], f"{OWN}.")
        elif inner and value:
            yield from groups(inner, value, f"{prefix}{key}.")


GROUPS = dict(groups(settings.Settings, PARAMS))
PREFIXES = pytest.mark.parametrize("prefix", GROUPS)  # each test damages all keys of a group: a message takes long


def place(params: dict, key: str) -> tuple[dict, str]:
    *path, last = key.split(".")
    for part in path:
        params = params[part]
    return params, last


@pytest.fixture
def refusal(tmp_path, monkeypatch):
    """What ``load`` says of changed parameters, or of a file's text."""

    def load(params: dict | str) -> str:
        path = tmp_path / "params.yaml"
        path.write_text(params if isinstance(params, str) else "", encoding="utf-8")
        if not isinstance(params, str):  # the parser of YAML takes longer than all the checks
            monkeypatch.setattr(yaml_file, "read", lambda path: params)
        with pytest.raises(UserError) as raised:
            settings.load(path)
        return str(raised.value)

    return load


@pytest.fixture
def load(tmp_path):
    """The settings of the repository's params.yaml with some values changed, written and read as a file."""

    def with_changes(**changes) -> settings.Settings:
        params = copy.deepcopy(PARAMS)
        for key, value in changes.items():
            group, last = place(params, key)
            group[last] = value
        path = tmp_path / "params.yaml"
        with open(path, "w", encoding="utf-8") as file:
            YAML.dump(params, file)
        return settings.load(path)

    return with_changes


def test_the_repository_s_settings_are_read(load):
    assert load().run == PARAMS["run"]


def test_all_groups_are_looked_at():
    expected = {"", "encoder.masked_language_model.text.", "general_student.distillation.losses.", f"{OWN}.source."}
    assert expected <= GROUPS.keys()


def fields(prefix: str) -> dict[str, pydantic.fields.FieldInfo]:
    """The settings of a group, by key."""
    return {key: field for key, field in GROUPS[prefix].model_fields.items() if key != "tasks"}


@PREFIXES
def test_unknown_keys_are_named_and_misspelt_ones_with_the_right_one(prefix, refusal):
    params = copy.deepcopy(PARAMS)
    group, _ = place(params, f"{prefix}colour")
    for key in fields(prefix):
        group[f"{key}x"] = group.pop(key, None)
    group["colour"] = "blue"
    message = refusal(params)
    assert f" {prefix}colour: unknown setting (known here: " in message
    for key in fields(prefix):
        assert f" {prefix}{key}x: unknown setting; did you mean '{key}'?" in message


@PREFIXES
def test_missing_keys_are_named(prefix, refusal):
    required = [key for key, field in fields(prefix).items() if field.is_required()]
    params = copy.deepcopy(PARAMS)
    group, _ = place(params, f"{prefix}any")
    for key in required:
        del group[key]
    message = refusal(params) if required else ""
    for key in required:
        assert f" {prefix}{key}: missing" in message


def test_a_key_that_may_stand_blank_says_so_where_it_is_missing(refusal):
    params = copy.deepcopy(PARAMS)
    task = next(iter(params["tasks"]))
    for key in ("augment", "unlabelled", "metric"):
        del params["tasks"][task][key]
    del params["distill_intermediate"]["dropout"]
    message = refusal(params)
    blank = "missing (it may be blank, but DVC needs the key)"
    for key in (f"tasks.{task}.augment", f"tasks.{task}.unlabelled", "distill_intermediate.dropout"):
        assert f"{key}: {blank}" in message
    assert f"tasks.{task}.metric: missing;" in f"{message};"


@PREFIXES
def test_values_of_another_type_are_named_with_what_was_expected(prefix, refusal):
    params = copy.deepcopy(PARAMS)
    group, _ = place(params, f"{prefix}any")
    wrong = {key: 7.5 if "str" in repr(field.annotation) else "seven" for key, field in fields(prefix).items()}
    group |= wrong
    message = refusal(params)
    for key, value in wrong.items():
        found = re.escape(f", found {value!r} ({type(value).__name__})")
        assert re.search(f" {re.escape(prefix + key)}: expected [^;]+{found}", message), key


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", -1, "a whole number (0 to 4294967295)"),
        ("seed", 2**32, "a whole number (0 to 4294967295)"),
        ("encoder.seed", -1, "a whole number (0 to 4294967295)"),
        ("prepare.seed", -1, "a whole number (0 to 4294967295)"),
        ("augment.seed", -1, "a whole number (0 to 4294967295)"),
        ("evaluate.seed", -1, "a whole number (0 to 4294967295)"),
        ("seed", True, "a whole number (0 to 4294967295)"),
        ("seed", 1.0, "a whole number (0 to 4294967295)"),
        ("run", [], "a list of texts (at least one)"),
        ("prepare.test", 1.0, "a number (more than 0 and less than 1)"),
        ("augment.probability", 1.5, "a number (0 to 1)"),
        ("finetune_teacher.dropout", 1.0, "a number (0 or more and less than 1) or blank"),
        ("augment.variants", -1, "a whole number (0 to 10000) or 'auto'"),
        ("export.opset", 17, "a whole number (18 to 22)"),
        ("export.opset", 23, "a whole number (18 to 22)"),
        ("distill_prediction.temperature", 0, "a number (more than 0 and at most 1000)"),
        ("distill_prediction.temperature", float("inf"), "a number (more than 0 and at most 1000)"),
        (
            "finetune_teacher.learning_rate",
            "5e-5",
            "a number (more than 0) or a list of numbers (at least one, each more than 0)",
        ),
        ("general_student.start", "layer", "'checkpoint', 'layers' or 'distillation'"),
        (
            "distill_intermediate.layer_map",
            "unifrom",
            "'auto', 'uniform', 'first' or 'last' or a list of whole numbers (each 1 to 1000)",
        ),
        ("encoder", None, "a group of settings (checkpoint, seed, masked_language_model)"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(key, value, expected, refusal):
    params = copy.deepcopy(PARAMS)
    group, last = place(params, key)
    group[last] = value
    assert f"{key}: expected {expected}, found {value!r} ({type(value).__name__})" in refusal(params)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"encoder": "package:a@1/b", "checkpoint": "package:c@1/d"}, "encoder and checkpoint exclude one another"),
        ({"seeds": [1, 2, 1]}, "seeds: [1, 2, 1] repeats a seed"),
    ],
)
def test_teachers_that_cannot_be_together_are_refused(changes, expected, refusal):
    params = copy.deepcopy(PARAMS)
    params["finetune_teacher"] |= changes
    assert f"finetune_teacher: {expected}" in refusal(params)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"splits": {"train": "a.csv"}}, "split_column: not read beside `splits`"),
        (
            {"splits": None, "more_tests": {"b": "b.csv"}},
            "split_column: more_tests and submissions need files of their",
        ),
    ],
)
def test_a_column_of_splits_excludes_files_of_splits(changes, expected, refusal):
    params = copy.deepcopy(PARAMS)
    params["tasks"][TASK]["source"] |= {"split_column": "fold", **changes}
    assert f"{OWN}.source: {expected}" in refusal(params)


def test_a_wrong_entry_of_a_list_is_named_by_its_place(refusal):
    params = copy.deepcopy(PARAMS)
    params["general_student"]["layers"] = [1, "six"]
    assert "general_student.layers.1: expected a whole number (1 to 1000), found 'six' (str)" in refusal(params)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("run", "tickets", "run: expected a list of texts (at least one), found 'tickets' (str): write [tickets]"),
        ("benchmark.batch_sizes", 8, "found 8 (int): write [8]"),
        (f"{OWN}.source.labels", ["bad", "good"], "(list): write, for example, {negative: 0, positive: 1}"),
        (
            f"{OWN}.source.labels",
            {0: "bad"},
            "labels.0: expected a name, found 0 (int): quote it, or write the name of",
        ),
        (f"{OWN}.source.splits", ["train.csv"], "(list): write, for example, {test: test.csv, train: train.csv}"),
        (
            f"{OWN}.scheme",
            "BIOES",
            f"unknown setting (known here: {', '.join(settings.Task.model_fields)}): it belongs at",
        ),
        (f"{OWN}.scheme", "BIOES", ": it belongs at tasks.<task>.source.scheme"),
        ("seed", ["long"] * 1000, "'long',… (list)"),
    ],
)
def test_the_right_form_or_place_of_a_value_is_named(key, value, expected, refusal):
    params = copy.deepcopy(PARAMS)
    group, last = place(params, key)
    group[last] = value
    assert expected in refusal(params)


def test_a_setting_of_the_source_under_options_is_named_with_its_place():
    with pytest.raises(UserError) as raised:
        settings.checked(settings.Group, {"scheme": "BIOES"}, f"{OWN}.options")
    assert str(raised.value) == (
        f"{OWN}.options.scheme: unknown setting (known here: none): it belongs at tasks.<task>.source.scheme"
    )


def aliases(depth: int, template: str) -> str:
    """Lists or groups of nine aliases each: 9^depth values."""
    lines = ["a0: &a0 {x: 1}"]
    for number in range(1, depth):
        lines.append(f"a{number}: &a{number} " + template % ", ".join([f"*a{number - 1}"] * 9))
    return "\n".join(lines)


@pytest.mark.parametrize("text", [aliases(30, "[%s]"), aliases(30, "{<<: [%s]}"), "a: &a [*a]", "a: " + "[" * 5000])
def test_a_file_that_expands_without_end_is_refused_at_once(text, refusal):
    message = refusal(text)
    assert message.endswith(("stand for more than 100000 values: remove some", "are nested too deeply"))


@pytest.mark.parametrize("number", ["9" * 5000, "!!int one", "!!float one"], ids=["long", "no int", "no float"])
def test_a_number_that_cannot_be_read_is_refused(number, refusal):
    assert "params.yaml: not valid YAML: " in refusal(f"seed: {number}")


@pytest.mark.parametrize("key", ["1", "[a, b]"])
def test_a_key_that_is_no_text_is_named(key, refusal):
    params = copy.deepcopy(PARAMS)
    params["augment"] |= YAML.load(f"{{? {key} : 5}}")
    assert f"augment.{YAML.load(key)}: expected a name, found ".replace("[", "(").replace("]", ")") in refusal(params)


def numbers_without_a_limit(schema: dict, key: str) -> list[str]:
    """The whole numbers of a JSON schema, by key, that may be as large as one likes."""
    found = [key] if schema.get("type") == "integer" and not {"maximum", "exclusiveMaximum"} & schema.keys() else []
    parts = [*schema.get("anyOf", []), *(schema[part] for part in ("items", "additionalProperties") if part in schema)]
    parts = [part for part in parts if isinstance(part, dict)]  # additionalProperties: false
    inner = [*((part, key) for part in parts), *((part, name) for name, part in schema.get("properties", {}).items())]
    return found + [name for part, of in inner for name in numbers_without_a_limit(part, of)]


def test_every_whole_number_has_a_limit():
    """Beyond it a run could only hang or overflow."""
    values = {"labels", "where"}  # values of the user's file
    options = [kind.Options for kind in tasks.KINDS.values() if hasattr(kind, "Options")]
    schemas = [group.model_json_schema() for group in (settings.Settings, *options)]
    groups = [group for schema in schemas for group in (schema, *schema.get("$defs", {}).values())]
    assert {name for group in groups for name in numbers_without_a_limit(group, "")} == values


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("distill_prediction.min_steps", "a whole number (1 to 100000000) or blank"),
        ("finetune_teacher.epochs", "a whole number (1 to 100000)"),
        ("augment.new_pairs", "a whole number (0 to 10000000)"),
        (f"{OWN}.max_length", "a whole number (8 to 100000)"),
        ("distill_intermediate.losses.hidden", "a number (0 to 1000000)"),
    ],
)
def test_a_setting_that_could_only_run_for_ever_is_refused(key, expected, refusal):
    params = copy.deepcopy(PARAMS)
    group, last = place(params, key)
    for value, found in [(10**30, 10**30), (10**5000, "Exceeds the limit (4300 digits) for integer string conversion")]:
        group[last] = value
        assert f"{key}: expected {expected}, found {found}" in refusal(params)


def test_aliases_may_stand_for_groups(tmp_path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    once, again = (
        "losses: {embeddings: 1, hidden: 1, attention: 1, relations: 0}",
        "losses: {embeddings: 1, hidden: 1, attention: 0.01, relations: 0}",
    )
    path = tmp_path / "params.yaml"
    path.write_text(
        text.replace(once, once.replace("{", "&all {"), 1).replace(again, "losses: *all", 1), encoding="utf-8"
    )
    assert settings.load(path).distill_intermediate.losses.attention == 1


def test_a_split_that_is_none_is_named(refusal):
    params = copy.deepcopy(PARAMS)
    params["tasks"][TASK]["source"]["splits"] = {"trian": "a.csv"}
    expected = "expected 'train', 'validation' or 'test', found 'trian' (str)"
    assert f"{OWN}.source.splits.trian: {expected}" in refusal(params)


def test_everything_wrong_is_said_at_once_in_one_line(refusal):
    params = copy.deepcopy(PARAMS)
    params["augment"]["variants"] = "five"
    del params["prepare"]["test"]
    message = refusal(params)
    assert "augment.variants: expected" in message
    assert "prepare.test: missing" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nrun: [a\nencoder:\n", "line 3: not valid YAML"),
        ("seed: 1\nseed: 2\n", "line 2: not valid YAML: found duplicate key"),
        ("seed: 1\n\tencoder: 1\n", "line 2: not valid YAML"),
        ("seed: \x00\n", "not valid YAML"),
        ("- a\n- b\n", "expected groups of settings, found list"),
        ("", "expected groups of settings, found NoneType"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_with_the_line(text, message, refusal):
    assert message in refusal(text)


def test_a_missing_file_says_where_to_stand(tmp_path):
    with pytest.raises(
        UserError, match=r"there is no .*params.yaml in this folder: change to the top of the repository"
    ):
        settings.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("written", ["1e-05", "1e-5", "1.0e-5", "0.00001"])
def test_numbers_in_exponent_form_are_numbers(written, tmp_path):
    """``dvc exp run -S`` writes 1e-05, which YAML 1.1 takes for text."""
    text = (Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8")
    group = text.index("\nfinetune_teacher:")
    start = text.index("learning_rate: ", group) + len("learning_rate: ")
    path = tmp_path / "params.yaml"
    path.write_text(text[:start] + written + text[text.index("\n", start) :], encoding="utf-8")
    assert settings.load(path).finetune_teacher.learning_rate == 1e-5


def test_a_task_in_run_that_is_not_defined_is_refused(refusal):
    params = copy.deepcopy(PARAMS)
    params["run"] = [TASK[:-1]]
    message = refusal(params)
    assert f"run: no task '{TASK[:-1]}' under `tasks`; did you mean '{TASK}'? (defined: {TASK}" in message


def test_a_task_given_to_a_stage_that_is_not_defined_is_refused(load):
    with pytest.raises(UserError, match=f"no task 'nowhere' under `tasks` .defined: .*{TASK}"):
        load().of("augment", "nowhere")


@pytest.mark.parametrize(
    "name", ["pretrained", "raw", "encoder", "word_vectors", "general_student", "a b", "a/b", "..", ""]
)
def test_names_that_would_clash_on_disk_are_refused(name, refusal):
    params = copy.deepcopy(PARAMS)
    params["tasks"][name] = params["tasks"][TASK]
    assert f"tasks.{name}: expected a name of letters" in refusal(params)


class TestTasksOwnValues:
    def test_they_replace_the_stage_s_and_nothing_else(self, load):
        own = {"temperature": 3, "epochs": 7}
        loaded = load(**{f"{OWN}.distill_prediction": own})
        merged = loaded.of("distill_prediction", TASK)
        assert merged == loaded.distill_prediction.model_copy(update=own)
        assert merged != loaded.distill_prediction

    def test_they_reach_into_groups(self, load):
        loaded = load(**{f"{OWN}.distill_intermediate": {"losses": {"hidden": 0}}})
        assert loaded.of("distill_intermediate", TASK).losses.model_dump() == {
            **PARAMS["distill_intermediate"]["losses"],
            "hidden": 0,
        }

    def test_they_leave_other_tasks_alone(self, load):
        other = copy.deepcopy(PARAMS["tasks"][TASK])
        loaded = load(**{"tasks.other": other, f"{OWN}.augment": {"variants": 9}})
        assert loaded.of("augment", TASK).variants == 9
        assert loaded.of("augment", "other") == loaded.augment

    def test_each_is_said_as_the_stage_starts(self, load, capsys):
        losses = PARAMS["distill_intermediate"]["losses"]
        was = losses["hidden"]
        loaded = load(**{f"{OWN}.distill_intermediate": {"losses": {**losses, "hidden": 0.5}}})
        loaded.of("distill_intermediate", TASK)
        said = capsys.readouterr().out.splitlines()
        assert said == [
            f"distill_intermediate {TASK}: losses.hidden = 0.5 ({OWN}.distill_intermediate),"
            f" in place of {was:.1f} (distill_intermediate)"
        ]

    def test_nothing_is_said_where_a_task_changes_nothing(self, load, capsys):
        load(**{f"{OWN}.augment": None}).of("augment", TASK)
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("stage", settings.STAGES_A_TASK_MAY_CHANGE)
    def test_an_unknown_one_is_named_with_its_task(self, stage, refusal):
        params = copy.deepcopy(PARAMS)
        params["tasks"][TASK][stage] = {"colour": "blue"}
        assert f"{OWN}.{stage}.colour: unknown setting (known here: " in refusal(params)

    @pytest.mark.parametrize(
        ("stage", "own", "message"),
        [
            ("distill_prediction", {"temprature": 2}, "temprature: unknown setting; did you mean 'temperature'?"),
            (
                "distill_prediction",
                {"temperature": "hot"},
                "temperature: expected a number (more than 0 and at most 1000), found 'hot' (str)",
            ),
            ("distill_intermediate", {"losses": {"hiden": 1}}, "losses.hiden: unknown setting; did you mean 'hidden'?"),
            (
                "general_student",
                {"shape": {"layers": 0}},
                "shape.layers: expected a whole number (1 to 1000), found 0 (int)",
            ),
            ("general_student", {"shape": 3}, "shape: expected a group of settings (layers, hidden, heads, feed"),
        ],
    )
    def test_a_wrong_one_is_named_with_its_task(self, stage, own, message, refusal):
        params = copy.deepcopy(PARAMS)
        params["tasks"][TASK][stage] = own
        assert f"{OWN}.{stage}.{message}" in refusal(params)


def test_no_default_of_the_schema_changes_a_result():
    """No stage depends on core, so code in a room has to fill in what params.yaml leaves out."""
    kinds = [kind for kind in vars(settings).values() if isinstance(kind, type) and issubclass(kind, settings.Group)]
    fields = {f"{kind.__name__}.{name}": field for kind in kinds for name, field in kind.model_fields.items()}
    assert {name for name, field in fields.items() if not field.is_required() and field.default} == set()
    assert {name for name, field in fields.items() if field.default in (False, 0, "")} == set()


class TestPresets:
    TINYBERT4 = {"layers": 4, "hidden": 312, "heads": 12, "feed_forward": 1200}

    def test_a_task_uses_a_preset_of_the_group(self, load, capsys):
        loaded = load()
        student = loaded.of("general_student", "mnli")
        assert (student.start, student.shape.model_dump()) == ("checkpoint", self.TINYBERT4)
        assert student.layers == loaded.general_student.layers
        said = "general_student mnli: start = checkpoint (tasks.mnli.general_student), in place of layers"
        assert said in capsys.readouterr().out
        assert loaded.of("general_student", TASK).start == "layers"

    def test_the_paper_s_tasks_train_for_the_paper_s_epochs_however_few_their_rows(self, load):
        loaded = load()
        found = {
            (task, stage): (loaded.of(stage, task).epochs, loaded.of(stage, task).min_steps)
            for task in PARAMS["tasks"].keys() - {TASK}
            for stage in ("finetune_teacher", "distill_prediction")
        }
        assert found == dict.fromkeys(found, (3, None)) != {}

    def test_a_task_s_own_values_replace_those_of_its_preset(self, load):
        loaded = load(**{"tasks.mnli.general_student": {"preset": "tinybert4", "shape": {"layers": 6}}})
        assert loaded.of("general_student", "mnli").shape.model_dump() == {**self.TINYBERT4, "layers": 6}
        assert loaded.of("general_student", "qnli").shape.model_dump() == self.TINYBERT4

    @pytest.mark.parametrize("name", ["tinybert6", None, {"layers": 4}])
    def test_an_unknown_preset_is_named_with_its_task(self, name, refusal):
        params = copy.deepcopy(PARAMS)
        params["tasks"]["mnli"]["general_student"] = {"preset": name}
        assert refusal(params).endswith(
            "params.yaml: tasks.mnli.general_student.preset: expected one of tinybert4 (general_student.presets),"
            f" found {name!r}"
        )

    def test_a_wrong_value_of_a_preset_is_named_even_if_no_task_uses_it(self, refusal):
        params = copy.deepcopy(PARAMS)
        params["general_student"]["presets"]["other"] = {"shape": {"layer": 4}}
        message = "general_student.presets.other.shape.layer: unknown setting; did you mean 'layers'?"
        assert message in refusal(params)

    def test_a_stage_without_presets_has_no_such_setting(self, refusal):
        params = copy.deepcopy(PARAMS)
        params["tasks"]["mnli"]["augment"] = {"preset": "tinybert4"}
        assert "tasks.mnli.augment.preset: unknown setting" in refusal(params)


def values(params: dict, prefix: str = "") -> dict:
    """Dotted key → value."""
    found = {}
    for key, value in params.items():
        found |= values(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("general_student.start=distillation", {"general_student.start": "distillation"}),
        (
            "general_student.presets.tinybert4.shape.layers=6",
            {"general_student.presets.tinybert4.shape.layers": 6},
        ),
        ("tasks.mnli.general_student.preset=other", {"tasks.mnli.general_student.preset": "other"}),
        ("+tasks.mnli.general_student.shape={layers: 6}", {"tasks.mnli.general_student.shape.layers": 6}),
        ("tasks.mnli.augment.variants=3", {"tasks.mnli.augment.variants": 3}),
        ("tasks.mnli.distill_prediction.learning_rate=1e-5", {"tasks.mnli.distill_prediction.learning_rate": 1e-5}),
    ],
)
def test_an_experiment_changes_the_value_that_it_names_and_no_other(tmp_path, override, changed):
    """By the function behind `dvc exp run -S`. It writes through YAML aliases, so params.yaml has none."""
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    hydra.apply_overrides(path, [override])
    assert values(YAML.load(path.read_text(encoding="utf-8"))) == values(PARAMS) | changed


@pytest.mark.parametrize(
    "names", [{"more_tests": {"train": "x"}}, {"submissions": {"test": "x"}}, {"more_tests": {"retention": "x"}},
              {"more_tests": {"../x": "x"}}, {"more_tests": {"a": "x"}, "submissions": {"a": "y"}},
              {"more_tests": {"unlabelled": "x"}}],
)  # fmt: skip
def test_names_of_further_splits_take_no_other_place(names):
    with pytest.raises(pydantic.ValidationError, match="cannot be a name under more_tests or submissions"):
        settings.Source(location="x", **names)


def test_learning_rates_that_the_trials_would_name_alike_are_refused(refusal):
    params = copy.deepcopy(PARAMS)
    params["finetune_teacher"]["learning_rate"] = [1e-4, 1.00000001e-4, 2e-4]
    assert "finetune_teacher.learning_rate: a learning rate occurs twice in [0.0001, " in refusal(params)
    params["finetune_teacher"]["learning_rate"] = 1e-4
    params["tasks"][TASK]["distill_prediction"] = {"learning_rate": [1e-4, 1e-4]}
    assert f"{OWN}.distill_prediction.learning_rate: a learning rate occurs twice" in refusal(params)
