import pytest

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.distillation.layer_map import map_layers

KEY = "distill_intermediate.layer_map"


@pytest.mark.parametrize(
    ("layer_map", "student", "teacher", "expected"),
    [
        ("auto", 2, 6, [1, 6]),
        ("auto", 3, 6, [1, 3, 6]),
        ("auto", 4, 12, [1, 4, 8, 12]),
        ("auto", 1, 12, [12]),
        ("auto", 3, 2, [1, 1, 2]),
        ("uniform", 4, 12, [3, 6, 9, 12]),
        ("uniform", 3, 3, [1, 2, 3]),
        ("uniform", 1, 6, [6]),
        ("first", 2, 6, [1, 2]),
        ("last", 2, 6, [5, 6]),
        ("last", 3, 3, [1, 2, 3]),
        ([3, 1, 3], 3, 6, [3, 1, 3]),
    ],
)
def test_a_layer_map_gives_a_teacher_layer_for_each_student_layer(layer_map, student, teacher, expected):
    assert map_layers(layer_map, student, teacher, KEY) == expected


@pytest.mark.parametrize(
    ("layer_map", "student", "teacher", "reason"),
    [
        ("uniform", 4, 6, "6 teacher layers are not divisible by 4 student layers"),
        ("uniform", 6, 3, "the student has 6 layers, the teacher only 3"),
        ("first", 6, 3, "the student has 6 layers, the teacher only 3"),
        ("last", 6, 3, "the student has 6 layers, the teacher only 3"),
        ([3, 7], 2, 6, "expected 2 numbers from 1 to 6"),
        ([0, 1], 2, 6, "expected 2 numbers from 1 to 6"),
        ([1, 2, 3], 2, 6, "expected 2 numbers from 1 to 6"),
    ],
)
def test_an_impossible_layer_map_is_an_error_that_names_the_setting(layer_map, student, teacher, reason):
    with pytest.raises(UserError, match=rf"^{KEY}: .*{reason}"):
        map_layers(layer_map, student, teacher, KEY)
