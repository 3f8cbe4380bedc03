"""Files that are damaged, stale, of another geometry or hostile, and how they are saved."""

import hashlib
import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.damage import DAMAGE, change, refused, same, snapshot, step, vouch
from tests.misfits import CHECKPOINT, MISFITS, READERS
from utils import artifacts
from utils.artifacts import Saving, load, load_array, write_rows
from utils.settings import UserError

SOME = ("truncated", "one bit flipped", "text", "removed", "truncated, vouched for",
        "code, vouched for", "archive, vouched for")


@contextmanager
def kept(path, place):
    """Puts a file and its manifest back in the end."""
    files = [file for file in {path, path.parent / "manifest.json"} if file.exists()]
    for file in files:
        shutil.copy2(file, place / file.name)
    try:
        yield
    finally:
        for file in files:
            shutil.copy2(place / file.name, file)


@pytest.mark.parametrize("file, script", READERS)
def test_damaged_file(stages, tmp_path, file, script, kinds=SOME):
    """Named in one line with the command that makes it again; nothing changes."""
    data, marker = stages["end"], tmp_path / "code has run"
    path, (script, *more) = data / file, script.split()
    for name in kinds:
        spoil, agreeing = DAMAGE[name]
        if agreeing and path.suffix == ".json":
            continue
        with kept(path, tmp_path):
            spoil(path, marker)
            if agreeing:
                vouch(path)
            before = snapshot(data)
            assert refused(step(script, data, *more), path.name, "run"), name
            assert snapshot(data) == before and not marker.exists(), name


@pytest.mark.parametrize("file, script", [READERS[0], ("delivery/morphed_train.npy",
                                                       "train_no_ac.py --restart")])
def test_damage_of_every_kind(stages, tmp_path, file, script):
    test_damaged_file(stages, tmp_path, file, script, kinds=tuple(DAMAGE))


@pytest.mark.parametrize("nth", range(len(MISFITS)))
def test_file_of_another_geometry(stages, tmp_path, nth):
    """With a manifest that vouches for it."""
    file, spoil, script = MISFITS[nth]
    data = stages["unfinished" if file == CHECKPOINT else "end"]
    with kept(data / file, tmp_path):
        spoil(data / file)
        before = snapshot(data)
        assert refused(step(script, data), (data / file).name)
        assert snapshot(data) == before


@pytest.mark.parametrize("values", [dict(step=None), dict(step=(4,)), dict(step=(4, 10**12)),
                                    dict(offset=(0, 0, 0)), dict(offset=(0, 10**12)),
                                    dict(offset=("0", "0")), dict(weight=torch.zeros(48, 64, 6))])
def test_aug_conv_of_other_tiles(by_tiles, tmp_path, values):
    path = by_tiles / "delivery" / "aug_conv.pt"
    with kept(path, tmp_path):
        change(path, **values)
        assert refused(step("train_with_ac.py", by_tiles), path.name, "gen_augconv.py")


@pytest.fixture(scope="module")
def by_tiles(stages, tmp_path_factory):
    data = shutil.copytree(stages["gen_morphing_matrix.py"], tmp_path_factory.mktemp("t") / "data")
    for script in ("gen_morphing_matrix.py", "gen_augconv.py"):
        assert step(script, data, settings=("--tile", "4")).status == 0
    return data


def test_core_of_another_inverse(stages, tmp_path):
    """Of the right form: seen by what Aug-Conv's features are."""
    path = stages["end"] / "provider" / "morphing_matrix.pt"
    with kept(path, tmp_path):
        change(path, core=lambda core: core.T + 1)
        assert refused(step("gen_augconv.py", stages["end"]), "features differ",
                       "run `python gen_morphing_matrix.py` again")


def test_damaged_checkpoint(at, stages, tmp_path):
    """Nothing but itself tells of it: it is refused, and --restart mends."""
    path = at("unfinished") / CHECKPOINT
    content = path.read_bytes()
    for name in ("truncated", "empty", "one bit flipped", "text", "code", "pickle, vouched for",
                 "compressed, vouched for"):
        path.write_bytes(content)
        DAMAGE[name][0](path, tmp_path / "code has run")
        assert refused(step("pretrain.py", tmp_path / "data"), path.name, "--restart"), name
        assert not (tmp_path / "code has run").exists(), name
    assert step("pretrain.py", tmp_path / "data", "--restart").status == 0
    assert same(tmp_path / "data", stages, "pretrain.py")


@pytest.fixture
def file_of_another_run(at, tmp_path):
    """A delivery with Aug-Conv of one key and images of another."""
    data = at("end")
    other = shutil.copytree(data / "delivery", tmp_path / "other")
    step("gen_augconv.py", data, "--morph_seed", "8")
    shutil.copy(other / "aug_conv.pt", data / "delivery" / "aug_conv.pt")
    return data


def test_stale_file_is_named(file_of_another_run):
    assert refused(step("train_with_ac.py", file_of_another_run), "aug_conv.pt", "gen_augconv.py")


def test_stale_file_with_its_entry_is_noticed(file_of_another_run):
    """The entry of the old manifest goes with it, the delivery's id does not."""
    manifest = file_of_another_run / "delivery" / "manifest.json"
    id = json.loads(manifest.read_text())["id"]
    vouch(file_of_another_run / "delivery" / "aug_conv.pt")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"id": id}))
    assert refused(step("train_with_ac.py", file_of_another_run), "manifest.json is damaged",
                   "run `python gen_augconv.py` again")


def test_files_of_a_missing_manifest_are_not_trusted(at):
    """Nor made anew where other steps' files would be lost; the advice of each message mends."""
    data = at("end")
    (data / "developer" / "manifest.json").unlink()
    assert refused(step("gen_augconv.py", data), "first_layer.pt",
                   "run `python pretrain.py --restart` again")
    (data / "delivery" / "manifest.json").unlink()
    assert refused(step("train_no_ac.py", data), "manifest.json is missing",
                   "run `python gen_augconv.py` first")
    for script, *more in (["pretrain.py", "--restart"], ["gen_augconv.py"], ["train_with_ac.py"],
                          ["train_no_ac.py"]):
        assert step(script, data, *more).status == 0


def test_remedies_work(at):
    """What the messages advise mends the damage."""
    data = at("end")
    (data / "developer" / "first_layer.pt").unlink()
    message = step("gen_augconv.py", data).message
    assert "run `python pretrain.py --restart` again" in message
    assert step("pretrain.py", data, "--restart").status == 0
    for folder in ("provider", "delivery", "queries/queries"):
        (data / folder / "manifest.json").write_text("{")
    for script, words in (("train_no_ac.py", "gen_augconv.py` again"),
                          ("gen_augconv.py", "gen_morphing_matrix.py` again"),
                          ("gen_morphing_matrix.py", ""), ("gen_augconv.py", ""),
                          ("predict.py", "morph_images.py` again"), ("morph_images.py", "")):
        result = step(script, data)
        assert refused(result, words) if words else result.status == 0
    load(data / "delivery" / "aug_conv.pt")


# Saving, seen from inside

def test_an_error_or_ctrl_c_while_saving_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    with Saving(tmp_path) as new:
        new.save("aug_conv.pt", {"weight": torch.zeros(10)})
    before = snapshot(tmp_path)
    for error in (KeyboardInterrupt, OSError(28, "No space left on device"), ValueError):
        with pytest.raises(error if isinstance(error, type) else OSError), Saving(tmp_path) as new:
            new.save("aug_conv.pt", {"weight": torch.ones(10)})
            raise error
        assert snapshot(tmp_path) == before

    class Interrupted:
        """SHA-256, and Ctrl-C while it is taken."""

        def update(self, data):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch, Saving(tmp_path) as new:
        patch.setattr(artifacts.hashlib, "sha256", Interrupted)
        new.save("aug_conv.pt", {"weight": torch.ones(10)})
    assert snapshot(tmp_path) == before


def test_the_manifest_has_what_the_files_are(tmp_path):
    with Saving(tmp_path) as new:
        new.save("aug_conv.pt", {"weight": torch.randn(1000, 100), "name": "any"})
        new.about(kappa=1)
    manifest, data = artifacts.manifest_of(tmp_path), (tmp_path / "aug_conv.pt").read_bytes()
    assert manifest["kappa"] == 1 and manifest["files"] == {
        "aug_conv.pt": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}


def test_a_damaged_manifest_is_not_continued(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is damaged: run"), Saving(tmp_path):
        raise AssertionError("it was entered")
    with Saving(tmp_path, anew=True) as new:
        new.save("a.json", "{}")
    assert list(artifacts.manifest_of(tmp_path)["files"]) == ["a.json"]


def test_rows_written_in_any_order_are_the_array(tmp_path):
    rows = np.arange(24, dtype=np.float16).reshape(6, 2, 2)
    with Saving(tmp_path) as new:
        new.save("a.npy", lambda file: np.lib.format.write_array_header_1_0(file, {
            "descr": "<f2", "fortran_order": False, "shape": rows.shape}))
        for first in (4, 0, 2):
            write_rows(tmp_path / "a.npy", first,
                       torch.from_numpy(rows[first:first + 2]))
    assert load_array(tmp_path / "a.npy", rows.shape, "float16").equal(torch.from_numpy(rows))
    assert (np.load(tmp_path / "a.npy") == rows).all()
