"""Tests import the recipes' modules as the scripts do, from the recipes' folder: one module each.

A second import under another name would register their Keras classes twice.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "recipes"))
