import copy
import itertools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from transformers import BertForSequenceClassification, BertModel

from pipeline import distill_intermediate
from pipeline.tinybert import tasks
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import DistillIntermediate, DistillPrediction
from pipeline.tinybert.data import rows
from pipeline.tinybert.distillation import stages, transfer_set
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.distillation.losses import soft_cross_entropy
from pipeline.tinybert.distillation.stages import (
    Imitation,
    fill_logits,
    imitate,
    intermediate_losses,
    states_and_scores,
)
from pipeline.tinybert.distillation.teacher_logits import Logits
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.training import fine_tuning

TASK = tiny.task(["negative", "positive"])
LAYER_MAPS = ["uniform", "first", "last", [4, 1]]
WEIGHTS = [(1, 1, 1), (0.5, 2, 0.25), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
TEXTS = [" ".join(["good film", "the plot was dull"][row % 2] for _ in range(1 + row % 4)) for row in range(10)]


def intermediate(**changes) -> DistillIntermediate:
    return DistillIntermediate.model_validate(
        {
            "epochs": 1,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "layer_map": "uniform",
            "losses": {"embeddings": 1, "hidden": 1, "attention": 1},
            "projections": "shared",
            "dropout": None,
            "max_rows": None,
            **changes,
        }
    )


def prediction(**changes) -> DistillPrediction:
    recipe = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0.1, "weight_decay": 0.01}
    more = {"patience": None, "accumulation": 1, "checkpointing": False, "dropout": None}
    more |= {"temperature": 1.0, "targets": "logits", "augmented": True}
    return DistillPrediction.model_validate({**recipe, **more, **changes})


def make_student(**shape) -> BertModel:
    torch.manual_seed(1)
    return BertModel(tiny.config(**{"layers": 2, **shape}))


def make_teacher(dropout: float = 0.0, **shape) -> BertForSequenceClassification:
    torch.manual_seed(2)
    teacher = BertForSequenceClassification(tiny.config(**{"layers": 4, "hidden": 32, **shape}))
    for module in teacher.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return teacher.train()


@pytest.fixture
def data(in_empty_folder, task):
    return transfer_set.encode(task, [{"text": text} for text in TEXTS], tiny.tokenizer(), tempfile.mkdtemp(dir="."))


def plain_logits(teacher) -> np.ndarray:
    """One row at a time, without padding, by the library alone."""
    teacher = copy.deepcopy(teacher).eval()
    teacher.set_attn_implementation("eager")
    tokenizer = tiny.tokenizer()
    with torch.no_grad():
        return np.concatenate([teacher(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in TEXTS])


def no_logits() -> Logits:
    return Logits.unknown(tempfile.mkdtemp(dir="."), np.ones(len(TEXTS), dtype=np.uint16), 2)


def values_of(logits: Logits) -> np.ndarray:
    return logits.values.read(0, len(TEXTS))


def missing_of(logits: Logits) -> set[int]:
    return set(np.concatenate(list(logits.missing())))


def run(student, teacher, data, recipe=None, logits=None, seed=1, precision="float32"):
    recipe, numerics = recipe or intermediate(), tiny.numerics(seed, precision)
    keep = logits and stages.KeepLogits(TASK, logits)
    return imitate(student, teacher, data, tiny.tokenizer(), recipe, numerics, "distill_intermediate", keep)


# The losses, against an implementation that knows nothing of this project's ----------------------------------------


def plain_losses(student, teacher, projections, inputs, layer_map, weights, scores_by_hand):
    """The intermediate losses as loops over rows, cut to their length, with the library's eager attention."""
    lengths = inputs["attention_mask"].sum(dim=1)
    sums = {"embeddings": 0.0, "hidden": 0.0, "attention": 0.0}
    for row, length in enumerate(lengths):
        unpadded = {name: values[row : row + 1, :length] for name, values in inputs.items()}
        ours, goal = (encoder(**unpadded, output_hidden_states=True).hidden_states for encoder in (student, teacher))
        our_scores, goal_scores = scores_by_hand(student, ours), scores_by_hand(teacher, goal)
        projected = [project(state) for project, state in zip(itertools.cycle(projections), ours, strict=False)]
        sums["embeddings"] += (projected[0] - goal[0]).square().mean(dim=-1).sum() / lengths.sum()
        for layer, mapped in enumerate(layer_map, start=1):
            sums["hidden"] += (projected[layer] - goal[mapped]).square().mean(dim=-1).sum() / lengths.sum()
            squares = (our_scores[layer - 1] - goal_scores[mapped - 1]).square().mean(dim=1)
            sums["attention"] += squares.sum() / lengths.square().sum()
    return {name: getattr(weights, name) * value for name, value in sums.items() if getattr(weights, name)}


def gradients(module) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize("weights", WEIGHTS, indirect=True)
@pytest.mark.parametrize("layer_map", LAYER_MAPS, ids=str)
@pytest.mark.parametrize("projections", ["shared", "each"])
def test_intermediate_losses_and_gradients_equal_a_plain_eager_implementation(
    batch, scores_by_hand, projections, layer_map, weights
):
    inputs = batch((9, 4, 6), padding=2)
    layer_map = map_layers(layer_map, 2, 4, "layer_map")
    teacher = make_teacher().base_model.eval().requires_grad_(False)
    ours = Imitation(make_student(), 32, projections).eval()
    plain = copy.deepcopy(ours)
    for encoder in (plain.student, teacher):
        encoder.set_attn_implementation("eager")
    expected = plain_losses(plain.student, teacher, plain.projections, inputs, layer_map, weights, scores_by_hand)
    sum(expected.values()).backward()

    stages.our_attention(ours.student)
    states, scores = states_and_scores(stages.our_attention(teacher), inputs, layer_map)
    parts = intermediate_losses(ours, states, scores, inputs, layer_map, weights)
    sum(parts.values()).backward()

    assert parts.keys() == expected.keys()
    for name, part in parts.items():
        torch.testing.assert_close(part, expected[name], atol=1e-6, rtol=1e-5)
    theirs = gradients(plain)
    assert any(gradient.abs().sum() > 0 for gradient in theirs.values())
    for name, gradient in gradients(ours).items():
        torch.testing.assert_close(gradient, theirs[name], atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_padding_a_batch_more_changes_no_part_of_the_intermediate_loss(batch, weights):
    teacher = stages.our_attention(make_teacher().base_model.eval())
    imitation = Imitation(stages.our_attention(make_student()), 32, "shared").eval()

    def parts(padding):
        inputs = batch((7, 3), padding)
        states, scores = states_and_scores(teacher, inputs, [2, 4])
        return intermediate_losses(imitation, states, scores, inputs, [2, 4], weights)

    alone, padded = parts(0), parts(5)
    for name in stages.PARTS:
        torch.testing.assert_close(padded[name], alone[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("projections", "count"), [("shared", 1), ("each", 3)])
def test_projections_begin_as_the_identity_where_the_widths_agree(batch, projections, count):
    student = stages.our_attention(make_student()).eval()
    inputs = batch((5,))
    imitation = Imitation(student, 24, projections)
    projected, _ = imitation(inputs, [])
    assert len(imitation.projections) == count
    for state, own in zip(projected, student(**inputs, output_hidden_states=True).hidden_states, strict=True):
        torch.testing.assert_close(state, own, atol=1e-6, rtol=0)


# The intermediate stage ---------------------------------------------------------------------------------------------


def test_the_teacher_is_in_evaluation_mode_and_gets_no_gradient(in_empty_folder, data):
    teacher = make_teacher(dropout=0.5)
    before = copy.deepcopy(teacher.state_dict())
    modes = []
    teacher.bert.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    run(make_student(), teacher, data)
    assert modes == [(False, False)] * 3
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(weights, before[name]) for name, weights in teacher.state_dict().items())


def test_dropout_of_the_teacher_is_not_applied(in_empty_folder, data):
    teacher = make_teacher(dropout=0.5)
    expected = plain_logits(teacher)
    first, second = no_logits(), no_logits()
    run(make_student(), teacher.train(), data, logits=first, seed=1)
    run(make_student(), teacher.train(), data, logits=second, seed=2)
    np.testing.assert_allclose(values_of(first), expected, atol=1e-5)
    np.testing.assert_allclose(values_of(second), expected, atol=1e-5)


def test_the_teacher_s_logits_fall_out_of_the_training(in_empty_folder, data):
    teacher, logits = make_teacher(), no_logits()
    expected = plain_logits(teacher)
    run(make_student(), teacher, data, logits=logits)
    np.testing.assert_allclose(values_of(logits), expected, atol=1e-5)


@pytest.mark.parametrize("already", [[], [0, 7, 9], range(10)])
def test_rows_without_logits_are_filled_and_the_others_left(data, already):
    teacher, logits = make_teacher(dropout=0.5), no_logits()
    for number in already:
        logits.values.write(number, np.full((1, 2), 100 + number))
    kept, expected = values_of(logits).copy(), plain_logits(teacher)
    fill_logits(teacher, TASK, data, tiny.tokenizer(), logits, tiny.numerics())
    new = sorted(set(range(10)) - set(already))
    np.testing.assert_array_equal(values_of(logits)[list(already)], kept[list(already)])
    np.testing.assert_allclose(values_of(logits)[new], expected[new], atol=1e-5)


def test_training_on_some_rows_gives_these_their_logits_and_the_rest_is_filled(in_empty_folder, data):
    teacher, logits = make_teacher(), no_logits()
    expected = plain_logits(teacher)
    part = transfer_set.sample(data, 6, seed=1)
    assert len(part) == 6
    run(make_student(), teacher, part, logits=logits)
    assert set(range(10)) - missing_of(logits) == {row["number"] for row in part}
    fill_logits(teacher, TASK, data, tiny.tokenizer(), logits, tiny.numerics())
    np.testing.assert_allclose(values_of(logits), expected, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "epochs", "steps"), [(4, 1, 3), (4, 2, 6), (64, 1, 1)])
def test_every_row_is_used_the_last_smaller_batch_too(in_empty_folder, data, batch_size, epochs, steps):
    seen, teacher = [], make_teacher()
    teacher.register_forward_hook(
        lambda module, inputs, keywords, outputs: seen.append(len(keywords["input_ids"])), with_kwargs=True
    )
    result = run(make_student(), teacher, data, intermediate(batch_size=batch_size, epochs=epochs))
    assert len(seen) == steps and sum(seen) == 10 * epochs
    assert [step for step, _ in result.curves["loss"]] == list(range(1, steps + 1))


@pytest.mark.parametrize("weights", [(1, 1, 1), (0, 2, 0.5)], indirect=True)
def test_curves_are_of_the_loss_and_of_its_parts(in_empty_folder, data, weights):
    names = weights.model_dump()
    result = run(make_student(), make_teacher(), data, intermediate(losses=names))
    parts = [name for name, weight in names.items() if weight]
    assert list(result.curves) == ["loss", *parts]
    for (step, loss), *points in zip(*result.curves.values(), strict=True):
        assert {at for at, _ in points} == {step}
        assert loss == pytest.approx(sum(value for _, value in points), rel=1e-3)
        assert all(value > 0 for _, value in points)


def test_the_student_learns_to_imitate(in_empty_folder, data):
    result = run(make_student(), make_teacher(), data, intermediate(epochs=12, learning_rate=1e-2))
    attention = result.curves["attention"]  # the part that the projections alone cannot lower
    assert attention[-1][1] < attention[0][1] / 2


@pytest.mark.parametrize("projections", ["shared", "each"])
def test_the_same_seed_gives_the_same_student(in_empty_folder, data, projections):
    def weights(seed):
        student = make_student()
        run(student, make_teacher(), data, intermediate(projections=projections), seed=seed)
        return torch.cat([parameter.flatten() for parameter in student.parameters()])

    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_the_learning_rate_is_constant(in_empty_folder, data, optimiser_steps):
    run(make_student(), make_teacher(), data, intermediate(epochs=2))
    assert optimiser_steps["rates"] == [1e-3] * 6


def test_the_optimiser_is_adamw_and_all_gradients_are_clipped_together(in_empty_folder, data, optimiser_steps):
    student = make_student()
    run(student, make_teacher(), data)
    projection = 2
    assert optimiser_steps["kinds"] == {torch.optim.AdamW}
    assert optimiser_steps["clipped"] == {(len(list(student.parameters())) + projection, 1.0)}


@pytest.fixture
def stage(in_empty_folder, task, teacher_of_the_stage):
    """``stage(**changes)`` runs the stage for a task `tiny` with these settings: the student and the logits it left."""
    tasks.save(task, made("data/tiny/prepared") / "task.json")
    rows.write(made("data/tiny/augmented") / "rows.jsonl", [{"text": text, "label": "negative"} for text in TEXTS[:6]])
    rows.write(made("data/tiny/unlabelled") / "rows.jsonl", [{"text": text} for text in TEXTS[6:]])
    checkpoints.save(made("models/tiny/teacher"), teacher_of_the_stage, tiny.tokenizer())
    checkpoints.save(made("models/tiny/general_student"), make_student(), tiny.tokenizer())
    shutil.copy(Path(__file__).parents[3] / "params.yaml", "params.yaml")

    def run_stage(**changes):
        tiny.write_params(Path("params.yaml"), **{f"distill_intermediate.{key}": v for key, v in changes.items()})
        distill_intermediate.main("tiny")
        student = BertForSequenceClassification.from_pretrained("models/tiny/intermediate")
        return student, values_of(Logits.load("data/tiny/teacher_logits"))

    return run_stage


@pytest.fixture
def teacher_of_the_stage():
    return make_teacher()


def made(folder: str) -> Path:
    Path(folder).mkdir(parents=True)
    return Path(folder)


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"epochs": 1}, {"epochs": 1, "max_rows": 3}], ids=str)
def test_the_stage_leaves_the_teacher_s_logits_of_every_row(stage, teacher_of_the_stage, changes):
    _, logits = stage(**changes)
    np.testing.assert_allclose(logits, plain_logits(teacher_of_the_stage), atol=1e-5)


def test_with_no_epochs_the_student_stays_the_general_one(stage):
    student, _ = stage(epochs=0)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(student.bert.parameters(), make_student().parameters(), strict=True)
    )
    assert Path("metrics/tiny/distill_intermediate/plots/metrics/loss.tsv").read_text() == "step\tloss\n"


def test_a_single_step_shorter_than_any_logging_interval_is_saved(stage, monkeypatch):
    shared = stages.arguments
    monkeypatch.setattr(stages, "arguments", lambda *rest, **more: shared(*rest, **{**more, "steps": 10_000}))
    student, _ = stage(epochs=1, batch_size=64)
    assert not torch.equal(
        student.bert.embeddings.word_embeddings.weight, make_student().embeddings.word_embeddings.weight
    )
    assert len(Path("metrics/tiny/distill_intermediate/plots/metrics/loss.tsv").read_text().splitlines()) == 1


# What does not fit together -------------------------------------------------------------------------------------------


def test_other_head_counts_stop_the_attention_loss_and_name_its_setting(data):
    with pytest.raises(UserError, match=r"^distill_intermediate\.losses\.attention: the student has 3 heads.* 4: "):
        run(make_student(heads=3), make_teacher(heads=4), data)


def test_other_head_counts_do_without_the_attention_loss(in_empty_folder, data):
    recipe = intermediate(losses={"embeddings": 1, "hidden": 1, "attention": 0})
    assert len(run(make_student(heads=3), make_teacher(heads=4), data, recipe).curves) == 3


def test_a_layer_map_that_does_not_fit_stops_before_training(data):
    with pytest.raises(UserError, match=r"^distill_intermediate\.layer_map: uniform: 4 teacher layers"):
        run(make_student(layers=3), make_teacher(), data)


def test_losses_that_are_all_off_stop_with_their_setting(data):
    with pytest.raises(UserError, match=r"^distill_intermediate\.losses: all are 0"):
        run(make_student(), make_teacher(), data, intermediate(losses=dict.fromkeys(stages.PARTS, 0)))


# The prediction stage -------------------------------------------------------------------------------------------------


VALIDATION = [{"text": text, "label": label} for text, label in zip(TEXTS, ["positive", "negative"] * 5, strict=True)]


def classifier(**shape) -> BertForSequenceClassification:
    torch.manual_seed(3)
    return BertForSequenceClassification(tiny.config(**{"layers": 2, **shape}))


def targets() -> np.ndarray:
    """Sure of itself, positive for even rows: as VALIDATION has it."""
    logits = np.tile(np.array([[-2.0, 2.0], [2.0, -2.0]], dtype=np.float32), (5, 1))
    return logits * np.linspace(1, 2, 10, dtype=np.float32)[:, None]


def learn(student, task, data, logits, seed=1, precision="float32", **changes):
    recipe, numerics = prediction(**changes), tiny.numerics(seed, precision)
    tokenizer, teacher_logits = tiny.tokenizer(), no_logits()
    teacher_logits.values.write(0, logits)
    validation = fine_tuning.EvaluationSet(task, VALIDATION, tokenizer)
    return stages.learn_logits(student, tokenizer, task, data, teacher_logits, validation, recipe, numerics)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_prediction_loss_compares_each_row_with_its_own_logits(in_empty_folder, task, data, temperature):
    student, logits = classifier(), targets()
    expected = soft_cross_entropy(
        torch.from_numpy(plain_logits(student)), torch.from_numpy(logits), torch.ones(10), temperature
    )
    result = learn(student, task, data, logits, epochs=1, batch_size=16, temperature=temperature)
    assert result.curves["loss"][0][1] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("turned", "low", "high"), [(False, 0.8, 1.0), (True, 0.0, 0.2)])
def test_labels_are_learnt_in_place_of_logits_where_they_are_the_targets(world, turned, low, high):
    shutil.rmtree("data/tiny/teacher_logits")
    if turned:
        path, other = Path("data/tiny/augmented/rows.jsonl"), {"positive": "negative", "negative": "positive"}
        rows.write(path, [{**row, "label": other[row["label"]]} for row in rows.read(path)])
    tiny.write_params(world / "params.yaml", **{"distill_prediction.targets": "labels"})
    tiny.run_stage("distill_prediction")
    score = json.loads(Path("metrics/tiny/distill_prediction/validation.json").read_text())["accuracy"]
    assert low <= score <= high


def test_prediction_training_uses_the_last_smaller_batch(in_empty_folder, task, data):
    learned = learn(classifier(), task, data, targets())
    assert [step for step, _ in learned.curves["loss"]] == [1, 2, 3, 4, 5, 6]


def test_prediction_training_learns_from_logits_alone(in_empty_folder, task, data):
    student = classifier()
    result = learn(student, task, data, targets(), epochs=4, learning_rate=1e-2)
    assert "labels" not in data[0]
    assert result.score == 1.0
    np.testing.assert_array_equal(plain_logits(student).argmax(axis=1), [1, 0] * 5)


def test_prediction_training_keeps_the_best_epoch_on_validation(in_empty_folder, task, data, monkeypatch):
    scores, weights = iter([0.25, 0.75, 0.5]), []
    student = classifier()

    def score(rows, predictions):
        weights.append(copy.deepcopy(student.state_dict()))
        return {"accuracy": next(scores)}

    monkeypatch.setattr(task, "score", score)
    result = learn(student, task, data, targets(), epochs=3)
    assert (result.score, result.epoch) == (0.75, 2)
    assert all(torch.equal(kept, weights[1][name]) for name, kept in student.state_dict().items())
    assert any(not torch.equal(kept, weights[2][name]) for name, kept in student.state_dict().items())


# Dropout and precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dropout", "different"), [(None, 2), (0.5, 2), (0.0, 1)])
def test_dropout_as_set_or_of_the_student_itself(in_empty_folder, task, data, dropout, different):
    """Without dropout the first batch, all rows, has the same loss under every seed."""
    student, teacher = classifier(), make_teacher(hidden=24)  # the projection, too, begins the same
    checkpoints.set_dropout(student, 0.5)
    recipe = {"epochs": 1, "batch_size": 16, "dropout": dropout}
    for train in (
        lambda seed: learn(copy.deepcopy(student), task, data, targets(), seed, **recipe),
        lambda seed: run(copy.deepcopy(student.base_model), teacher, data, intermediate(**recipe), seed=seed),
    ):
        assert len({round(train(seed).curves["loss"][0][1], 4) for seed in (1, 2)}) == different


@pytest.fixture
def products(monkeypatch) -> set[torch.dtype]:
    """The types in which linear layers have computed."""
    seen, linear = set(), torch.nn.functional.linear

    def watched(values, *rest):
        product = linear(values, *rest)
        seen.add(product.dtype)
        return product

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    return seen


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_stages_compute_in_the_precision_set_and_keep_float32_weights(
    precision, in_empty_folder, task, data, products
):
    student, teacher, logits = classifier(), make_teacher(), no_logits()
    expected = plain_logits(teacher)
    products.clear()
    run(student.base_model, teacher, data, logits=logits, precision=precision)
    fill_logits(teacher, TASK, data, tiny.tokenizer(), no_logits(), tiny.numerics(precision=precision))
    assert products == {getattr(torch, precision)}
    learn(student, task, data, values_of(logits), precision=precision)
    assert products == {getattr(torch, precision), torch.float32}  # the latter on validation
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    np.testing.assert_allclose(values_of(logits), expected, atol=0.05)


def test_bfloat16_learns_what_float32_learns(in_empty_folder, task, data):
    curves = [
        learn(classifier(), task, data, targets(), precision=precision, epochs=4).curves["loss"]
        for precision in ("float32", "bfloat16")
    ]
    assert curves[0] != curves[1]
    np.testing.assert_allclose(curves[0], curves[1], rtol=0.05)
