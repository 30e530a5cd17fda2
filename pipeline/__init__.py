"""The stages of dvc.yaml, one module each: ``python -m pipeline.<stage> [task]``."""

from pipeline.tinybert import stage

stage.end_in_one_line()
