import copy
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny_distillation import TASK, TEXTS, make_classifier, make_student, make_teacher, no_logits, plain_logits
from transformers import BertForSequenceClassification

from pipeline import distill_intermediate
from pipeline.tinybert import tasks
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import DistillIntermediate
from pipeline.tinybert.data import rows
from pipeline.tinybert.distillation import intermediate, teacher_logits, transfer_set
from pipeline.tinybert.distillation.intermediate import (
    LogitsRecorder,
    StudentWithProjections,
    intermediate_losses,
    learn_intermediate,
    states_and_scores,
)
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits, fill
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.attention import our_attention
from pipeline.tinybert.training import loop

CASES = [  # projections, layer map, weights: each of them, and both kinds of projections with each kind of weights
    ("shared", "uniform", (1, 1, 1)),
    ("each", "first", (1, 1, 1)),
    ("shared", [4, 1], (0.5, 2, 0.25)),
    ("each", "last", (0.5, 2, 0.25)),
    ("shared", "first", (1, 0, 0)),
    ("shared", "last", (0, 1, 0)),
    ("each", [4, 1], (0, 1, 0)),
    ("each", "uniform", (0, 0, 1)),
]


def recipe(**changes) -> DistillIntermediate:
    return DistillIntermediate.model_validate(
        {
            "epochs": 1,
            "min_steps": None,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "layer_map": "uniform",
            "losses": {"embeddings": 1, "hidden": 1, "attention": 1, "relations": 0},
            "relation_heads": 2,
            "projections": "shared",
            "dropout": None,
            "max_rows": None,
            **changes,
        }
    )


def unknown_numbers(logits) -> set[int]:
    return {number for number in range(len(logits)) if not logits.known(np.array([number]))}


def learn(student, teacher, data, logits=None, seed=1, precision="float32", **changes):
    recorder = logits and LogitsRecorder(TASK, logits)
    numerics = tiny.numerics(seed, precision)
    key = "distill_intermediate"
    return learn_intermediate(student, teacher, data, tiny.tokenizer(), recipe(**changes), numerics, key, recorder)


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


@pytest.mark.parametrize(("projections", "layer_map", "weights"), CASES, indirect=["weights"], ids=str)
def test_intermediate_losses_and_gradients_equal_a_plain_eager_implementation(
    batch, scores_by_hand, projections, layer_map, weights
):
    inputs = batch((9, 4, 6), padding=2)
    layer_map = map_layers(layer_map, 2, 4, "layer_map")
    teacher = make_teacher().base_model.eval().requires_grad_(False)
    ours = StudentWithProjections(make_student(), 32, projections).eval()
    plain = copy.deepcopy(ours)
    for encoder in (plain.student, teacher):
        encoder.set_attn_implementation("eager")
    expected = plain_losses(plain.student, teacher, plain.projections, inputs, layer_map, weights, scores_by_hand)
    sum(expected.values()).backward()

    our_attention(ours.student)
    states, scores = states_and_scores(our_attention(teacher), inputs, layer_map)
    parts = intermediate_losses(ours, states, scores, inputs, layer_map, weights)
    sum(parts.values()).backward()

    assert parts.keys() == expected.keys()
    for name, part in parts.items():
        torch.testing.assert_close(part, expected[name], atol=1e-6, rtol=1e-5)
    theirs = gradients(plain)
    assert any(gradient.abs().sum() > 0 for gradient in theirs.values())
    for name, gradient in gradients(ours).items():
        torch.testing.assert_close(gradient, theirs[name], atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_more_padding_changes_no_part_of_the_intermediate_loss(batch, weights):
    teacher = our_attention(make_teacher().base_model.eval())
    projected = StudentWithProjections(our_attention(make_student()), 32, "shared").eval()

    def parts(padding):
        inputs = batch((7, 3), padding)
        states, scores = states_and_scores(teacher, inputs, [2, 4])
        return intermediate_losses(projected, states, scores, inputs, [2, 4], weights)

    alone, padded = parts(0), parts(5)
    assert alone.keys() == {"embeddings", "hidden", "attention"}
    for name in alone:
        torch.testing.assert_close(padded[name], alone[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("projections", "count"), [("shared", 1), ("each", 3)])
def test_projections_begin_as_the_identity_if_the_widths_are_equal(batch, projections, count):
    student = our_attention(make_student()).eval()
    inputs = batch((5,))
    with_projections = StudentWithProjections(student, 24, projections)
    projected, _ = with_projections(inputs, [])
    assert len(with_projections.projections) == count
    for state, own in zip(projected, student(**inputs, output_hidden_states=True).hidden_states, strict=True):
        torch.testing.assert_close(state, own, atol=1e-6, rtol=0)


# The intermediate stage ---------------------------------------------------------------------------------------------


def test_the_teacher_is_in_evaluation_mode_and_gets_no_gradient(in_empty_folder, data):
    teacher = make_teacher(dropout=0.5)
    before = copy.deepcopy(teacher.state_dict())
    modes = []
    teacher.bert.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    learn(make_student(), teacher, data)
    assert modes == [(False, False)] * 3
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(weights, before[name]) for name, weights in teacher.state_dict().items())


def test_dropout_of_the_teacher_is_not_applied(in_empty_folder, data):
    teacher = make_teacher(dropout=0.5)
    expected = plain_logits(teacher)
    first, second = no_logits(), no_logits()
    learn(make_student(), teacher.train(), data, logits=first, seed=1)
    learn(make_student(), teacher.train(), data, logits=second, seed=2)
    np.testing.assert_allclose(first.values[:], expected, atol=1e-5)
    np.testing.assert_allclose(second.values[:], expected, atol=1e-5)


@pytest.mark.parametrize("already", [[], [0, 7, 9], range(10)])
def test_missing_logits_are_computed_and_the_others_stay(data, already):
    teacher, logits = make_teacher(dropout=0.5), no_logits()
    for number in already:
        logits.values[np.array([number])] = 100 + number
    before, expected = logits.values[:], plain_logits(teacher)
    new = sorted(set(range(10)) - set(already))
    fill(logits, teacher, TASK, data, tiny.tokenizer(), tiny.numerics(), np.array(new, dtype=np.int32))
    np.testing.assert_array_equal(logits.values[:][list(already)], before[list(already)])
    np.testing.assert_allclose(logits.values[:][new], expected[new], atol=1e-5)


def test_an_interrupted_computation_of_logits_goes_on_with_the_batches_that_are_missing(data, monkeypatch):
    monkeypatch.setattr(teacher_logits, "SEQUENCES_PER_BLOCK", 4)
    whole, resumed, batches = no_logits(), no_logits(), []

    def compute(logits, last: int = 99):
        def watched(*_):
            if len(batches) == last:
                raise KeyboardInterrupt
            batches.append(1)

        batches.clear()
        teacher = make_teacher()
        teacher.register_forward_hook(watched)
        fill(logits, teacher, TASK, data, tiny.tokenizer(), tiny.numerics())

    compute(whole)
    assert len(batches) == 3
    with pytest.raises(KeyboardInterrupt):
        compute(resumed, last=1)
    compute(resumed)
    assert len(batches) == 2
    np.testing.assert_array_equal(resumed.values[:], whole.values[:])


def test_training_on_some_rows_records_their_logits_and_the_rest_is_computed(in_empty_folder, data):
    teacher, logits = make_teacher(), no_logits()
    expected = plain_logits(teacher)
    part = transfer_set.sample(data, 6, seed=1)
    assert len(part) == 6
    learn(make_student(), teacher, part, logits=logits)
    assert set(range(10)) - unknown_numbers(logits) == set(part.batch(range(6))["number"])
    fill(logits, teacher, TASK, data, tiny.tokenizer(), tiny.numerics())
    np.testing.assert_allclose(logits.values[:], expected, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "epochs", "steps"), [(4, 1, 3), (4, 2, 6), (64, 1, 1)])
def test_every_row_is_used_the_last_smaller_batch_too(in_empty_folder, data, batch_size, epochs, steps):
    seen, teacher = [], make_teacher()
    teacher.register_forward_hook(
        lambda module, inputs, keywords, outputs: seen.append(len(keywords["input_ids"])), with_kwargs=True
    )
    result = learn(make_student(), teacher, data, batch_size=batch_size, epochs=epochs)
    assert len(seen) == steps and sum(seen) == 10 * epochs
    assert [step for step, _ in result.curves["loss"]] == list(range(1, steps + 1))


@pytest.mark.parametrize("weights", [(1, 1, 1), (0, 2, 0.5)], indirect=True)
def test_curves_are_of_the_loss_and_of_its_parts(in_empty_folder, data, weights):
    names = weights.model_dump()
    result = learn(make_student(), make_teacher(), data, losses=names)
    parts = [name for name, weight in names.items() if weight]
    assert list(result.curves) == ["loss", *parts]
    for (step, loss), *points in zip(*result.curves.values(), strict=True):
        assert {at for at, _ in points} == {step}
        assert loss == pytest.approx(sum(value for _, value in points), rel=1e-3)
        assert all(value > 0 for _, value in points)


def test_the_student_learns_the_teacher_s_attention(in_empty_folder, data):
    result = learn(make_student(), make_teacher(), data, epochs=12, learning_rate=1e-2)
    attention = result.curves["attention"]  # the part that the projections alone cannot lower
    assert attention[-1][1] < attention[0][1] / 2


@pytest.mark.parametrize("projections", ["shared", "each"])
def test_the_same_seed_gives_the_same_student(in_empty_folder, data, projections):
    def weights(seed):
        student = make_student()
        learn(student, make_teacher(), data, projections=projections, seed=seed)
        return torch.cat([parameter.flatten() for parameter in student.parameters()])

    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_the_learning_rate_is_constant(in_empty_folder, data, optimiser_steps):
    learn(make_student(), make_teacher(), data, epochs=2)
    assert optimiser_steps["rates"] == [1e-3] * 6


def test_the_optimiser_is_adamw_and_all_gradients_are_clipped_together(in_empty_folder, data, optimiser_steps):
    student = make_student()
    learn(student, make_teacher(), data)
    projection = 2
    assert optimiser_steps["kinds"] == {torch.optim.AdamW}
    assert optimiser_steps["clipped"] == {(len(list(student.parameters())) + projection, 1.0)}


@pytest.fixture
def stage(in_empty_folder, task, teacher_of_the_stage):
    """``stage(**changes)`` runs the stage for a task `tiny` with these settings: its student and logits."""
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
        return student, TeacherLogits.load("data/tiny/teacher_logits").values[:]

    return run_stage


@pytest.fixture
def teacher_of_the_stage():
    return make_teacher()


def made(folder: str) -> Path:
    Path(folder).mkdir(parents=True)
    return Path(folder)


@pytest.mark.parametrize(
    "changes", [{"epochs": 0}, {"epochs": 1}, {"epochs": 1, "max_rows": 3}, {"min_steps": 7}], ids=str
)
def test_the_stage_leaves_the_teacher_s_logits_of_every_row(stage, teacher_of_the_stage, changes):
    _, logits = stage(**changes)
    np.testing.assert_allclose(logits, plain_logits(teacher_of_the_stage), atol=1e-5)


def test_with_no_epochs_the_student_stays_the_general_one(stage):
    student, _ = stage(epochs=0)
    general = make_student()
    for ours, theirs in ((student.bert.embeddings, general.embeddings), (student.bert.encoder, general.encoder)):
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(our_weight, their_weight) for our_weight, their_weight in pairs)
    assert Path("metrics/tiny/distill_intermediate/plots/metrics/loss.tsv").read_text() == "step\tloss\n"


def test_a_single_step_shorter_than_any_logging_interval_is_saved(stage, monkeypatch):
    monkeypatch.setattr(loop, "POINTS_OF_A_CURVE", 1e-4)
    student, _ = stage(epochs=1, batch_size=64)
    assert not torch.equal(
        student.bert.embeddings.word_embeddings.weight, make_student().embeddings.word_embeddings.weight
    )
    assert len(Path("metrics/tiny/distill_intermediate/plots/metrics/loss.tsv").read_text().splitlines()) == 1


# Settings that do not fit together ------------------------------------------------------------------------------------


def test_other_head_counts_train_without_the_attention_loss_and_name_its_setting(in_empty_folder, data, capfd):
    curves = learn(make_student(heads=3), make_teacher(heads=4), data).curves
    assert curves.keys() == {"loss", "embeddings", "hidden"}
    reason = "the student has 3 heads, the teacher 4 (distill_intermediate.losses.relations takes any number)"
    expected = f"distill_intermediate.losses.attention: attention scores are not learned: {reason}"
    assert expected in capfd.readouterr().out


def test_a_layer_map_that_does_not_fit_stops_before_training(data):
    with pytest.raises(UserError, match=r"^distill_intermediate\.layer_map: uniform: 4 teacher layers"):
        learn(make_student(layers=3), make_teacher(), data)


def test_losses_that_are_all_off_stop_with_their_setting(data):
    with pytest.raises(UserError, match=r"^distill_intermediate\.losses: all are 0"):
        learn(make_student(), make_teacher(), data, losses=dict.fromkeys(intermediate.PARTS, 0))


# Dropout and precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dropout", "different"), [(None, 2), (0.5, 2), (0.0, 1)])
def test_dropout_as_set_or_of_the_student_itself(data, dropout, different):
    """Without dropout the first batch, all rows, has the same loss under every seed."""
    student, teacher = make_classifier().base_model, make_teacher(hidden=24)  # the projection begins the same, too
    checkpoints.set_dropout(student, 0.5)
    changes = {"batch_size": 16, "dropout": dropout}
    curves = [learn(copy.deepcopy(student), teacher, data, seed=seed, **changes).curves["loss"] for seed in (1, 2)]
    assert len({round(curve[0][1], 4) for curve in curves}) == different


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_computes_in_the_precision_set_and_keeps_float32_weights(precision, data, products):
    student, teacher, logits = make_student(), make_teacher(), no_logits()
    expected = plain_logits(teacher)
    products.clear()
    learn(student, teacher, data, logits=logits, precision=precision)
    fill(no_logits(), teacher, TASK, data, tiny.tokenizer(), tiny.numerics(precision=precision))
    assert products == {getattr(torch, precision)}
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    np.testing.assert_allclose(logits.values[:], expected, atol=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_relations_are_learned_from_a_teacher_with_another_number_of_heads(in_empty_folder, data, precision):
    student, teacher = make_student(heads=3), make_teacher(heads=4, hidden=36)
    weights = {"embeddings": 0, "hidden": 0, "attention": 0, "relations": 1}
    changes = {"relation_heads": 6, "epochs": 12, "learning_rate": 1e-2, "precision": precision}
    result = learn(student, teacher, data, losses=weights, **changes)
    curve = [value for _, value in result.curves["loss"]]
    assert curve[-1] < 0.7 * curve[0]


def test_a_number_of_relation_heads_that_does_not_divide_a_width_is_an_error(in_empty_folder, data):
    weights = {"embeddings": 0, "hidden": 0, "attention": 0, "relations": 1}
    with pytest.raises(UserError, match="^distill_intermediate.relation_heads: 5: the student's width, 24, is no"):
        learn(make_student(), make_teacher(), data, losses=weights, relation_heads=5)
