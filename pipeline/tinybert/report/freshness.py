"""Whether a report was made from the present models.

If only some stages run, DVC keeps the results of the others, which may be of an earlier model: dvc.lock tells them
apart.
"""

import subprocess
from pathlib import Path
from typing import NamedTuple

import ruamel.yaml


class Input(NamedTuple):
    """A model that a report is made from. ``reader``, ``maker``: the stages that read and make it."""

    reader: str
    maker: str
    model: str


INPUTS: dict[str, list[Input]] = {
    "scores": [
        Input("evaluate", "distill_prediction", "student"),
        Input("evaluate", "finetune_student", "student_alone"),
        Input("evaluate", "finetune_teacher", "teacher"),
    ],
    "export": [Input("export", "distill_prediction", "student")],
    "benchmark": [Input("export", "distill_prediction", "student"), Input("benchmark", "export", "onnx")],
}


def lock_of(commit: str | None) -> dict:
    """The stages in dvc.lock of a commit, or (None) of this folder; empty if there is none."""
    if commit is None:
        text = Path("dvc.lock").read_text(encoding="utf-8") if Path("dvc.lock").is_file() else ""
    else:
        text = subprocess.run(["git", "show", f"{commit}:./dvc.lock"], capture_output=True, encoding="utf-8").stdout
    return (ruamel.yaml.YAML(typ="safe", pure=True).load(text) or {}).get("stages", {})


def is_up_to_date(lock: dict, task: str, report: str) -> bool:
    """False if dvc.lock shows that the report was made from another model than the present one."""

    def md5(stage: str, side: str, model: str) -> str | None:
        entries = lock.get(f"{stage}@{task}", {}).get(side, [])
        return next((entry.get("md5") for entry in entries if entry["path"] == f"models/{task}/{model}"), None)

    return all(md5(reader, "deps", model) == md5(maker, "outs", model) for reader, maker, model in INPUTS[report])
