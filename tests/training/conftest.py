"""Images that the tests of training share."""

import pytest
from training_helpers import make_images


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two domains of five small images and one for the samples: reddish and bluish blobs.

    Tests that change them copy them first.
    """
    folder = tmp_path_factory.mktemp("data")
    for side, colour in (("A", (200, 90, 60)), ("B", (60, 90, 200))):
        make_images(folder / f"train{side}", colour)
        make_images(folder / f"test{side}", colour, count=1)
    return folder
