"""Make the general TinyBERT in the task's student shape: from a checkpoint, layers of the encoder, or distillation."""

from pathlib import Path

from pipeline.tinybert import curves, general, models, processes, scratch, settings, stage


def main(task: str) -> None:
    configuration = settings.load()
    wanted = configuration.of("general_student", task)

    learned = {}
    if wanted.start == "checkpoint":
        student = general.from_checkpoint(wanted)
    elif wanted.start == "layers":
        student = general.from_layers(wanted, configuration.seed)
    else:
        student, result = general.from_distillation(wanted, configuration.numerics)
        learned = result.curves

    with stage.output(Path("models", task, "general_student")) as out:
        models.save(out, student, models.tokenizer(general.ENCODER))
    with stage.output(Path("metrics", task, "general_student")) as out:
        curves.write(out, learned)


if __name__ == "__main__":
    processes.run(main, "task", within=scratch.of_stage)
