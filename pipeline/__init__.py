"""The stages of dvc.yaml, one module each: ``python -m pipeline.<stage> [task]``."""

import gc
import os
import sys

from pipeline.tinybert.core import stage

# OpenMP's threads spin while they wait for one another. On a machine that is busy with other programs this takes the
# processor from the thread that they wait for: a forward pass takes 1.2 s in place of 0.05 (docs/running.md).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if sys.argv[0] == "-m":  # a stage starts, it is not imported: report an interrupt in one line from here on
    stage.report_errors_in_one_line()
    gc.disable()  # until `stage.imports_are_done`
