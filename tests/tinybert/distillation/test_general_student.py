import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertForMaskedLM, BertModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import GeneralStudent
from pipeline.tinybert.distillation import general_student, narrowing
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.families import FAMILIES, feed_forward, layers

pytestmark = pytest.mark.usefixtures("files_anywhere")

SHAPE = {"layers": 2, "hidden": 24, "heads": 2, "feed_forward": 48}
TRAIN = ["the film is good", "a bad plot", "the story is fine and the music is bad"]


@pytest.fixture(autouse=True)
def encoder(in_empty_folder) -> BertModel:
    """The encoder where the stage looks for it, of four layers."""
    tiny.write_checkpoint(general_student.ENCODER)
    return BertModel.from_pretrained(general_student.ENCODER)


def wanted(start: str, shape=None, distillation=None, **changes) -> GeneralStudent:
    text = {"location": "text.csv", "limit": 20}
    recipe = {
        "text": text,
        "epochs": 1,
        "min_steps": None,
        "batch_size": 8,
        "max_length": 32,
        "learning_rate": 1e-3,
        "layer_map": "uniform",
        "losses": {"embeddings": 1, "hidden": 1, "attention": 1, "relations": 0},
        "relation_heads": 2,
        "projections": "shared",
        "dropout": None,
    }
    settings = {"start": start, "shape": {**SHAPE, **(shape or {})}, "checkpoint": "checkpoint", "layers": [1, 2]}
    return GeneralStudent.model_validate({**settings, "distillation": {**recipe, **(distillation or {})}, **changes})


def of_layers(settings: GeneralStudent, train: list[str] = TRAIN):
    rows = [{"id": f"train-{number}", "text": text, "label": "a"} for number, text in enumerate(train)]
    return general_student.from_layers(settings, tiny.task(["a", "b"]), rows)


def same(first, second) -> bool:
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("chosen", [[1, 2], [2, 4], [4], [3, 3], [4, 1, 2]])
def test_layers_of_the_encoder_are_copied_exactly(encoder, chosen):
    student = of_layers(wanted("layers", {"layers": len(chosen)}, layers=chosen))
    assert student.config.num_hidden_layers == len(layers(student)) == len(chosen)
    assert same(student.embeddings, encoder.embeddings)
    assert same(student.pooler, encoder.pooler)
    for block, layer in zip(layers(student), chosen, strict=True):
        assert same(block, layers(encoder)[layer - 1])


@pytest.mark.parametrize(("count", "chosen"), [(1, [4]), (2, [1, 4]), (4, [1, 2, 3, 4])])
def test_automatic_layers_go_from_the_first_to_the_last_in_equal_steps(encoder, count, chosen):
    student = of_layers(wanted("layers", {"layers": count}, layers="auto"))
    for block, layer in zip(layers(student), chosen, strict=True):
        assert same(block, layers(encoder)[layer - 1])


def test_layers_of_modernbert_keep_their_local_or_global_attention_and_the_first_stays_first(in_empty_folder):
    tiny.write_family(general_student.ENCODER, "modernbert")
    kinds = AutoModel.from_pretrained(general_student.ENCODER).config.layer_types
    student = of_layers(wanted("layers", {"layers": 3}, layers=[1, 4, 3]))
    assert student.config.layer_types == [kinds[0], kinds[3], kinds[2]] and len(set(kinds)) == 2
    with pytest.raises(UserError, match=r"\[2, 1\]: the first layer of a modernbert has other weights than the rest: "):
        of_layers(wanted("layers", layers=[2, 1]))


def test_a_layer_used_twice_is_two_layers_of_the_student():
    first, second = layers(of_layers(wanted("layers", layers=[3, 3])))
    assert first.output.dense.weight is not second.output.dense.weight


@pytest.mark.parametrize(
    ("shape", "layers", "message"),
    [
        ({}, [1, 5], r"general_student\.layers: \[1, 5\]: expected numbers from 1 to 4"),
        ({}, [1, 2, 3], r"general_student\.layers: .*: 3 layers, but general_student\.shape\.layers is 2"),
        ({"hidden": 32}, [1, 2], r"general_student\.shape\.hidden: 32, .* set it to 24, or .*general_student\.start"),
        ({"heads": 4}, [1, 2], r"general_student\.shape\.heads: 4, .* set it to 2"),
        ({"feed_forward": 49}, [1, 2], r"general_student\.shape\.feed_forward: 49, .* set it to 48"),
    ],
)
def test_layers_that_do_not_fit_the_shape_stop_with_the_setting(shape, layers, message):
    with pytest.raises(UserError, match=f"^{message}"):
        of_layers(wanted("layers", shape, layers=layers))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrower_student_loses_the_neurons_that_matter_least(in_empty_folder, family):
    """Here those that always hold the same, however large, and those that nobody listens to: nothing is lost."""
    tiny.write_family(general_student.ENCODER, family)
    encoder = AutoModel.from_pretrained(general_student.ENCODER)
    with torch.no_grad():
        for block in layers(encoder):
            to, back = feed_forward(block, family)
            to.weight[::4], back.weight[:, 1::4] = 0, 0
            if to.bias is not None:
                to.bias[::4] = 5
    checkpoints.save(general_student.ENCODER, encoder)
    student = of_layers(wanted("layers", {"layers": 4, "feed_forward": 24}, layers=[1, 2, 3, 4]))
    assert checkpoints.shape_of(student.config).feed_forward == 24
    inputs = checkpoints.tokenizer(general_student.ENCODER)(
        ["the film is good", "a bad plot"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        ours, theirs = (model.eval()(**inputs).last_hidden_state for model in (student, encoder))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_narrower_student_keeps_the_neurons_that_matter_on_its_own_rows(encoder):
    """Rows of one word, again and again, have other strong neurons than rows of another."""
    shape = {"layers": 4, "feed_forward": 8}
    first, second = (of_layers(wanted("layers", shape, layers="auto"), [word] * 4) for word in ("film", "music plot"))
    kept = [feed_forward(layers(student)[0], "bert")[0].weight for student in (first, second)]
    assert not torch.equal(*kept)
    assert same(first, of_layers(wanted("layers", shape, layers="auto"), ["film"] * 2))


def test_neurons_are_measured_on_a_limited_number_of_word_pieces(monkeypatch):
    monkeypatch.setattr(narrowing, "MOST_PIECES", 30)
    rows = [{"id": f"train-{number}", "text": "the film is good", "label": "a"} for number in range(100)]
    tokenizer = checkpoints.tokenizer(general_student.ENCODER)
    assert narrowing.encoded(tiny.task(["a"]), rows, tokenizer).lengths.tolist() == [6] * 5


def test_one_long_text_does_not_pad_all_others(monkeypatch):
    monkeypatch.setattr(narrowing, "MOST_PADDED", 100)
    assert [numbers.tolist() for numbers in narrowing.batches(np.array([5, 120, 30, 40]))] == [[1], [3, 2], [0]]


def test_a_checkpoint_is_taken_as_it_is(in_empty_folder):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", seed=5, layers=2)
    student = general_student.from_checkpoint(wanted("checkpoint"))
    assert same(student, BertModel.from_pretrained("checkpoint"))


def test_a_checkpoint_saved_from_a_wrapper_is_taken_and_this_is_said(in_empty_folder, capfd):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", layers=2)
    expected = BertModel.from_pretrained("checkpoint")
    file = in_empty_folder / "checkpoint/model.safetensors"
    save_file({f"0.auto_model.{name}": weight for name, weight in load_file(file).items()}, file)
    assert same(general_student.from_checkpoint(wanted("checkpoint")), expected)
    line = "general_student.checkpoint: the names of the weights begin with '0.auto_model.', which is left out\n"
    assert capfd.readouterr().out == line


def test_a_checkpoint_that_lacks_a_layer_stops_with_the_setting(in_empty_folder):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", layers=2)
    file = in_empty_folder / "checkpoint/model.safetensors"
    save_file({name: weight for name, weight in load_file(file).items() if "layer.1." not in name}, file)
    with pytest.raises(UserError, match=r"^general_student\.checkpoint: .* 16 missing \(encoder\.layer\.1\."):
        general_student.from_checkpoint(wanted("checkpoint"))


def test_a_checkpoint_of_another_width_than_the_encoder_s(in_empty_folder):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", layers=1, hidden=16, heads=4, feed_forward=20)
    shape = {"layers": 1, "hidden": 16, "heads": 4, "feed_forward": 20}
    assert (
        checkpoints.shape_of(general_student.from_checkpoint(wanted("checkpoint", shape)).config).model_dump() == shape
    )


def test_what_a_checkpoint_lacks_is_the_same_each_time(in_empty_folder):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", BertForMaskedLM, layers=2)  # which has no pooler
    first, second = (general_student.from_checkpoint(wanted("checkpoint")) for _ in range(2))
    assert same(first, second)
    assert first.pooler.dense.weight.std() > 0


@pytest.mark.parametrize(("name", "value"), [("layers", 3), ("hidden", 32), ("heads", 4), ("feed_forward", 96)])
def test_a_checkpoint_of_another_shape_stops_with_the_setting(in_empty_folder, name, value):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", **{**SHAPE, name: value})
    message = rf"^general_student\.shape\.{name}: {SHAPE[name]}, but the checkpoint checkpoint gives {value}"
    with pytest.raises(UserError, match=message):
        general_student.from_checkpoint(wanted("checkpoint"))


def test_a_checkpoint_with_another_vocabulary_stops_with_the_setting(in_empty_folder):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", layers=2)
    file = in_empty_folder / "checkpoint/tokenizer.json"
    file.write_text(file.read_text().replace('"charming"', '"enchanting"'))
    with pytest.raises(UserError, match=r"^general_student\.checkpoint: the student's vocabulary"):
        general_student.from_checkpoint(wanted("checkpoint"))


def test_a_checkpoint_without_a_model_stops_with_the_setting(in_empty_folder):
    with pytest.raises(UserError, match=r"^general_student\.checkpoint: .*nowhere"):
        general_student.from_checkpoint(wanted("checkpoint", checkpoint="nowhere"))


def test_a_checkpoint_of_another_family_stops_with_the_setting(in_empty_folder):
    tiny.write_family(in_empty_folder / "checkpoint", "distilbert")
    with pytest.raises(UserError, match=r"^general_student\.checkpoint: .*'distilbert', the encoder's is 'bert'"):
        general_student.from_checkpoint(wanted("checkpoint"))


@pytest.mark.parametrize(
    ("shape", "losses"),
    [
        ({}, {}),
        ({"layers": 4, "hidden": 16, "feed_forward": 20}, {}),
        ({"layers": 1, "hidden": 30, "heads": 3}, {"attention": 0}),
    ],
)
def test_general_distillation_teaches_a_student_of_any_shape(in_empty_folder, shape, losses):
    tiny.write_text(in_empty_folder / "text.csv", 20)
    recipe = {
        "epochs": 6,
        "learning_rate": 1e-2,
        "losses": {"embeddings": 1, "hidden": 1, "attention": 1, "relations": 0, **losses},
    }
    student, result = general_student.from_distillation(wanted("distillation", shape, recipe), tiny.numerics())
    assert checkpoints.shape_of(student.config).model_dump() == {**SHAPE, **shape}
    assert result.curves["loss"][-1][1] < result.curves["loss"][0][1] / 2


def test_a_student_of_general_distillation_is_an_ordinary_model(in_empty_folder):
    tiny.write_text(in_empty_folder / "text.csv", 20)
    student, _ = general_student.from_distillation(wanted("distillation", {"hidden": 16}), tiny.numerics())
    checkpoints.save(in_empty_folder / "student", student, checkpoints.tokenizer(general_student.ENCODER))
    loaded, info = AutoModel.from_pretrained("student", output_loading_info=True)
    assert same(loaded, student)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_general_distillation_starts_untrained_and_leaves_the_encoder_alone(in_empty_folder, encoder, monkeypatch):
    tiny.write_text(in_empty_folder / "text.csv", 20)
    seen = {}

    def untrained(student, teacher, data, *rest):
        seen.update(student=student, teacher=teacher, columns=data.batch([0]))

    monkeypatch.setattr(general_student, "learn_intermediate", untrained)
    general_student.from_distillation(wanted("distillation", {"layers": 4}), tiny.numerics())
    ours, theirs = (layers(seen[who])[0].attention.self.query.weight for who in ("student", "teacher"))
    assert same(seen["teacher"], encoder)
    assert not torch.allclose(ours, theirs)
    assert "labels" not in seen["columns"]


@pytest.mark.parametrize(
    ("shape", "recipe", "message"),
    [
        ({"hidden": 25}, {}, r"shape\.hidden: 25 is not a multiple of general_student\.shape\.heads, 2"),
        ({"heads": 4}, {}, r"distillation\.losses\.attention: the student has 4 heads, the teacher 2"),
        ({"layers": 3}, {}, r"distillation\.layer_map: uniform: 4 teacher layers"),
        ({}, {"layer_map": [2, 5]}, r"distillation\.layer_map: \[2, 5\]: expected 2 numbers from 1 to 4"),
        ({}, {"max_length": 65}, r"distillation\.max_length: 65: the encoder takes at most 64"),
    ],
)
def test_general_distillation_that_cannot_be_stops_with_the_setting(in_empty_folder, shape, recipe, message):
    tiny.write_text(in_empty_folder / "text.csv", 20)
    with pytest.raises(UserError, match=rf"^general_student\.{message}"):
        general_student.from_distillation(wanted("distillation", shape, recipe), tiny.numerics())
