"""Which models a report was measured on. If only some stages run, DVC keeps the results of the others, which may be of
an earlier model: dvc.lock tells them apart.
"""

import subprocess
from pathlib import Path

import ruamel.yaml

STUDENT = ("distill_prediction", "student")
# Report → the stage that writes it, and the models that it is measured on: each with the stage that makes it.
MEASURED = {
    "scores": [
        ("evaluate", *STUDENT),
        ("evaluate", "finetune_student", "student_alone"),
        ("evaluate", "finetune_teacher", "teacher"),
    ],
    "export": [("export", *STUDENT)],
    "benchmark": [("export", *STUDENT), ("benchmark", "export", "onnx")],
}


def lock_of(commit: str | None) -> dict:
    """The stages in dvc.lock of a commit, or (None) of this folder; empty if there is none."""
    if commit is None:
        text = Path("dvc.lock").read_text(encoding="utf-8") if Path("dvc.lock").is_file() else ""
    else:
        text = subprocess.run(["git", "show", f"{commit}:./dvc.lock"], capture_output=True, encoding="utf-8").stdout
    return (ruamel.yaml.YAML(typ="safe", pure=True).load(text) or {}).get("stages", {})


def is_of_present_models(lock: dict, task: str, report: str) -> bool:
    """False if the report was measured on another model than the one that stands in dvc.lock."""

    def md5(stage: str, side: str, model: str) -> str | None:
        entries = lock.get(f"{stage}@{task}", {}).get(side, [])
        return next((entry.get("md5") for entry in entries if entry["path"] == f"models/{task}/{model}"), None)

    return all(md5(reader, "deps", model) == md5(maker, "outs", model) for reader, maker, model in MEASURED[report])
