"""One local Ray for all tests of actors, apart from any other Ray on this machine."""

from collections.abc import Iterator

import pytest

from tests.local_ray import own_ray


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    with own_ray():
        yield
