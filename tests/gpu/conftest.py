"""Tests that need an NVIDIA GPU and a build with -DQUASHDB_BUILD_CUDA=ON; without,
they skip and say which is missing. Libraries as in tests/python."""

import os
import pathlib
import sys

if "QUASHDB_LIBRARY" in os.environ:
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bindings" / "python"))
