"""Data folders that several tests start from."""

import shutil

import pytest

from tests.damage import make_stages


@pytest.fixture(scope="session")
def stages(tmp_path_factory):
    """The data folder as each step finds it, and as all leave it; not to be changed."""
    return make_stages(tmp_path_factory.mktemp("stages"))


@pytest.fixture
def at(stages, tmp_path):
    """at(stage): a copy of the data folder as it was then, in at.folder."""
    def copied(stage):
        return shutil.copytree(stages[stage], copied.folder)

    copied.folder = tmp_path / "data"
    return copied
