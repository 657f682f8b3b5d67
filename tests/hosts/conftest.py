"""What tests of several hosts start and have to end."""

import pytest

from negplug.hosts.watch import Watch


@pytest.fixture
def watch():
    """Starts a watch, which ends with the test."""
    made = []

    def start(*args, **kwargs):
        made.append(Watch(*args, **kwargs))
        return made[-1]

    yield start
    for one in made:
        one.stop()
