"""The stages of dvc.yaml, one module each: ``python -m pipeline.<stage> [task]``."""

import gc
import sys

from pipeline.tinybert.core import stage

if sys.argv[0] == "-m":  # a stage is being started, not imported: from its slow imports on, Ctrl-C ends it well
    stage.report_errors_in_one_line()
    gc.disable()  # until `stage.imports_are_done`
