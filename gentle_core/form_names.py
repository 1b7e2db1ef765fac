"""What closed forms are called in recipes and on the command line. Imports no torch."""

from typing import Literal, get_args

FormName = Literal["ridge", "cca", "procrustes", "propagation", "ot-em", "ensemble"]
FORM_NAMES: tuple[FormName, ...] = get_args(FormName)
