"""Files that are damaged, stale, of another geometry or hostile, and how they are saved."""

import hashlib
import json
import shutil

import pytest
import torch

from tests.damage import (
    DAMAGE,
    MISFITS,
    READERS,
    SETTINGS,
    change,
    refused,
    snapshot,
    vouch,
)
from tests.steps import run
from utils import artifacts
from utils.artifacts import Saving, load
from utils.program import UserError

SOME = ("truncated", "one bit flipped", "text", "removed", "truncated, vouched for",
        "code, vouched for")


@pytest.mark.parametrize("file, script", READERS)
def test_damaged_file(stages, tmp_path, file, script, kinds=SOME):
    """Named in one line with the command that makes it again; nothing changes."""
    data, marker = stages["end"], tmp_path / "code has run"
    path, command = data / file, [*script.split(), *SETTINGS, "--data_dir", data]
    kept = [path, path.parent / "manifest.json"]
    for f in kept:
        shutil.copy2(f, tmp_path / f.name)
    for name in kinds:
        spoil, agreeing = DAMAGE[name]
        if agreeing and path.suffix == ".json":
            continue
        try:
            spoil(path, marker)
            if agreeing:
                vouch(path)
            before = snapshot(data)
            assert refused(run(*command), path.name, "run"), name
            assert snapshot(data) == before and not marker.exists(), name
        finally:
            for f in kept:
                shutil.copy2(tmp_path / f.name, f)


def test_damage_of_every_kind(stages, tmp_path):
    test_damaged_file(stages, tmp_path, *READERS[0], kinds=tuple(DAMAGE))


@pytest.mark.parametrize("nth", range(len(MISFITS)))
def test_file_of_another_geometry(stages, tmp_path, nth):
    """With a manifest that vouches for it."""
    file, spoil, script = MISFITS[nth]
    data = stages["unfinished" if "checkpoint" in file else "end"]
    path, restart = data / file, ["--restart"] if script.startswith("train") else []
    kept = {path, path.parent / "manifest.json"}
    for f in kept:
        shutil.copy2(f, tmp_path / f.name)
    try:
        spoil(path)
        before = snapshot(data)
        assert refused(run(script, *SETTINGS, *restart, "--data_dir", data), path.name)
        assert snapshot(data) == before
    finally:
        for f in kept:
            shutil.copy2(tmp_path / f.name, f)


def test_damaged_checkpoint(stages, tmp_path):
    test_damaged_file({"end": stages["unfinished"]}, tmp_path, "developer/pretrained.checkpoint.pt",
                      "pretrain.py", ("truncated", "removed", "code, vouched for"))


@pytest.fixture
def file_of_another_run(at, tmp_path):
    """A delivery with Aug-Conv of one key and images of another."""
    data = at("end")
    other = shutil.copytree(data / "delivery", tmp_path / "other")
    run("gen_augconv.py", *SETTINGS, "--morph_seed", "8", "--data_dir", data)
    shutil.copy(other / "aug_conv.pt", data / "delivery" / "aug_conv.pt")
    return data


def test_stale_file_is_named(file_of_another_run):
    command = ("train_with_ac.py", *SETTINGS, "--data_dir", file_of_another_run)
    assert refused(run(*command), "aug_conv.pt", "gen_augconv.py")


def test_stale_file_with_its_entry_is_noticed(file_of_another_run):
    """The entry of the old manifest goes with it, the delivery's identifier does not."""
    manifest = file_of_another_run / "delivery" / "manifest.json"
    identifier = json.loads(manifest.read_text())["delivery"]
    vouch(file_of_another_run / "delivery" / "aug_conv.pt")
    change(manifest, delivery=identifier)
    command = ("train_with_ac.py", *SETTINGS, "--data_dir", file_of_another_run)
    assert refused(run(*command), "manifest.json", "do not belong together")


def test_missing_manifest_is_not_begun_anew(at):
    """It would no longer tell of the files that other steps have left."""
    data = at("end")
    (data / "developer" / "manifest.json").unlink()
    before = snapshot(data)
    for script in ("pretrain.py", "gen_augconv.py", "train_no_ac.py"):
        for more in ((), ("--restart",)):
            assert refused(run(script, *SETTINGS, *more, "--data_dir", data),
                           "manifest.json is missing", "move ")
    assert snapshot(data) == before


def test_remedies_work(at):
    """What the messages advise mends the damage."""
    data = at("end")
    (data / "developer" / "first_layer.pt").unlink()
    message = run("gen_augconv.py", *SETTINGS, "--data_dir", data).message
    assert "run `python pretrain.py --restart` again" in message
    assert run("pretrain.py", *SETTINGS, "--restart", "--data_dir", data).status == 0
    for folder in ("provider", "delivery"):
        (data / folder / "manifest.json").write_text("{")
    for script in ("gen_morphing_matrix.py", "gen_augconv.py"):
        assert run(script, *SETTINGS, "--data_dir", data).status == 0
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
        """SHA-256, and Ctrl-C while the third piece passes."""

        def __init__(self):
            self.left = 3

        def update(self, data):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Saving(tmp_path) as new, monkeypatch.context() as patch:
        patch.setattr(artifacts.hashlib, "sha256", Interrupted)
        new.save("aug_conv.pt", {"weight": torch.ones(10)})
    assert snapshot(tmp_path) == before


def test_hash_while_writing_is_the_files(tmp_path):
    with Saving(tmp_path) as new:
        new.save("aug_conv.pt", {"weight": torch.randn(1000, 100), "name": "any"})
    entry = artifacts.read_manifest(tmp_path)["files"]["aug_conv.pt"]
    data = (tmp_path / "aug_conv.pt").read_bytes()
    assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_a_damaged_manifest_is_not_replaced(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is damaged: move "), Saving(tmp_path):
        raise AssertionError("it was entered")
    with Saving(tmp_path, anew=True) as new:
        new.write("morphed.png", b"a picture")
    assert list(artifacts.read_manifest(tmp_path)["files"]) == ["morphed.png"]


