"""Data folders that several tests start from."""

import shutil

import pytest

from tests.damage import make_stages
from tests.inference import steps, tree


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


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """images/, and data/ after four steps on them and a query `whole` of all test images with
    their names; not to be changed."""
    folder = tmp_path_factory.mktemp("inference")
    images = tree(folder / "images")
    steps(folder / "data", "pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py",
          "train_with_ac.py", dataset_dir=images)
    steps(folder / "data", f"morph_images.py --name whole --show_names --images {images}/test")
    return folder


@pytest.fixture
def data(made, tmp_path):
    """A copy of that data folder, to be changed."""
    return shutil.copytree(made / "data", tmp_path / "data")
