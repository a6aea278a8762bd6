"""Every drop-in loss under torch.compile(fullgraph=True): the value and the gradient of the eager call."""

import pytest
import torch
from dropins import DROPINS, logits
from originals import assert_compiles


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:single channel")
@pytest.mark.parametrize("name", DROPINS)
def test_compiles_in_one_graph(name):
    make, target = DROPINS[name]
    torch._dynamo.reset()
    assert_compiles(make(), logits(), target())
