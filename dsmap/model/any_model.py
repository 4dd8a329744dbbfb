"""The kinds of generators that a bundle can hold."""

from dsmap.model.cyclegan import CycleGAN
from dsmap.model.dsmap import DSMAP
from dsmap.model.munit import MUNIT

StyledModel = DSMAP | MUNIT
"""With styles, in both directions."""
AnyModel = StyledModel | CycleGAN
