"""Files that are damaged, stale, of another geometry or hostile, and how they are saved."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.damage import DAMAGE, change, place, refused, same, snapshot, step, stopped, vouch
from tests.misfits import CHECKPOINT, DELIVERY, LAYER, MISFITS, READERS, Reader
from tests.steps import killed_before
from utils import artifacts
from utils.artifacts import (
    Saving,
    keep_private,
    load_array,
    read_manifest,
    read_tensors,
    remedy,
    write_array_header,
    write_rows,
)
from utils.errors import UserError

SOME = ("truncated", "removed", "code, vouched for")     # each is refused in a place of its own
EVERYWHERE = [Reader(DELIVERY, "train_no_ac.py", "gen_augconv.py"),
              Reader("delivery/morphed_train.npy", "train_no_ac.py --restart", "gen_augconv.py"),
              Reader("delivery/aug_conv.pt", "train_with_ac.py --restart", "gen_augconv.py"),
              Reader(LAYER, "gen_augconv.py", "the developer")]


@contextmanager
def kept(path, folder):
    """Puts a file and its manifest back in the end."""
    files = [file for file in {path, path.parent / "manifest.json"} if file.exists()]
    for file in files:
        shutil.copy2(file, folder / file.name)
    try:
        yield
    finally:
        for file in files:
            shutil.copy2(folder / file.name, file)


def in_words(reader: Reader) -> str:
    return f"{reader.file} read by {reader.script}"


@pytest.mark.parametrize("reader", READERS, ids=in_words)
def test_damaged_file(stages, tmp_path, reader, kinds=SOME):
    """Named in one line with the command that makes it again; nothing changes."""
    data, marker = stages["end"], tmp_path / "code has run"
    path = place(data, reader.file)
    script, *options = reader.script.split()
    for kind in kinds:
        spoil, agreeing = DAMAGE[kind]
        if agreeing and path.suffix == ".json":
            continue
        with kept(path, tmp_path):
            spoil(path, marker)
            if agreeing:
                vouch(path)
            before = snapshot(data)
            assert refused(step(script, data, *options), path.name, reader.advice), kind
            assert snapshot(data) == before and not marker.exists(), kind


@pytest.mark.parametrize("reader", EVERYWHERE, ids=in_words)
def test_damage_of_every_kind_where_trust_is_crossed(stages, tmp_path, reader):
    test_damaged_file(stages, tmp_path, reader, kinds=tuple(DAMAGE))


@pytest.mark.parametrize("name", MISFITS)
def test_file_of_another_geometry(stages, tmp_path, name):
    """With a manifest that vouches for it."""
    file, spoil, script = MISFITS[name]
    data = stages["unfinished" if file == CHECKPOINT else "end"]
    path = place(data, file)
    with kept(path, tmp_path):
        spoil(path)
        before = snapshot(data)
        named = path.parent.name if file.startswith("KEY/") else path.name
        assert refused(step(script, data), named)
        assert snapshot(data) == before


TILES = {
    "no step": dict(step=None), "a step of one number": dict(step=(4,)),
    "a step beyond memory": dict(step=(4, 10**12)),
    "an offset of three": dict(offset=(0, 0, 0)),
    "an offset beyond memory": dict(offset=(0, 10**12)),
    "an offset in words": dict(offset=("0", "0")),
    "a weight of three dimensions": dict(weight=torch.zeros(48, 64, 6))}


@pytest.mark.parametrize("name", TILES)
def test_aug_conv_of_other_tiles(by_tiles, tmp_path, name):
    path = by_tiles / "delivery" / "aug_conv.pt"
    with kept(path, tmp_path):
        change(path, **TILES[name])
        assert refused(step("train_with_ac.py", by_tiles), path.name, "gen_augconv.py")


@pytest.fixture(scope="module")
def by_tiles(stages, tmp_path_factory):
    data = shutil.copytree(stages["gen_morphing_matrix.py"], tmp_path_factory.mktemp("t") / "data")
    for script in ("gen_morphing_matrix.py", "gen_augconv.py"):
        assert step(script, data, settings=("--tile", "4")).status == 0
    return data


def test_an_inverse_that_is_not_the_cores_is_seen_by_its_features(stages, tmp_path):
    path = place(stages["end"], "KEY/inverse_matrix.pt")
    with kept(path, tmp_path):
        change(path, core=lambda core: core.T.contiguous())
        assert refused(step("gen_augconv.py", stages["end"]), "features differ",
                       "run `python gen_morphing_matrix.py` again")


@pytest.mark.parametrize("kind", ["truncated", "empty", "one bit flipped", "code"])
def test_damaged_checkpoint(at, tmp_path, kind):
    """Nothing but itself tells of it: it is refused, and --restart mends."""
    data = at("unfinished")
    DAMAGE[kind][0](data / CHECKPOINT, tmp_path / "code has run")
    assert refused(step("pretrain.py", data), "pretrained.checkpoint.pt", "--restart")
    assert not (tmp_path / "code has run").exists()


def test_restart_mends_a_damaged_checkpoint(at, stages):
    data = at("unfinished")
    (data / CHECKPOINT).write_text("damaged")
    assert step("pretrain.py", data, "--restart").status == 0
    assert same(data, stages, "pretrain.py")


def test_a_run_that_was_given_up_does_not_come_back(at, stages):
    """Where the new one is stopped before its first checkpoint."""
    data = at("unfinished")
    killed = step("pretrain.py", data, "--restart",
                  before=killed_before("write", "pretrained.checkpoint.pt"))
    assert killed.status == -signal.SIGKILL
    again = step("pretrain.py", data)
    assert again.status == 0 and "going on after" not in again.out
    assert same(data, stages, "pretrain.py")
    halted = step("pretrain.py", data, "--restart",
                  before=killed_before("write", "pretrained.checkpoint.pt", by=signal.SIGINT))
    assert stopped(halted, "with --restart no to continue from the last checkpoint, or the same "
                   "command again if no epoch was finished")


@pytest.fixture
def file_of_another_run(at, tmp_path):
    """A delivery with Aug-Conv of one channel order and a manifest of another."""
    data = at("end")
    other = shutil.copytree(data / "delivery", tmp_path / "other")
    assert step("gen_augconv.py", data, "--morph_seed", "8").status == 0
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


def test_the_advice_of_each_message_mends(at):
    """Files without their manifest are not trusted, nor written over where others' would be lost.
    """
    data = at("end")
    (data / "developer" / "first_layer.pt").unlink()
    assert refused(step("gen_augconv.py", data), "first_layer.pt is missing", "pretrain.py")
    assert step("pretrain.py", data, "--restart").status == 0

    (data / "delivery" / "manifest.json").unlink()
    assert refused(step("train_no_ac.py", data), "manifest.json is missing",
                   "run `python gen_augconv.py` first")
    place(data, "KEY/manifest.json").write_text("{")
    assert refused(step("gen_augconv.py", data), "run `python gen_morphing_matrix.py` again")
    for script in ("gen_morphing_matrix.py", "gen_augconv.py"):
        assert step(script, data).status == 0

    (data / "queries" / "queries" / "manifest.json").write_text("{")
    assert refused(step("predict.py", data), "run `python morph_images.py` again")
    assert step("morph_images.py", data).status == 0
    assert step("train_with_ac.py", data).status == 0
    assert step("predict.py", data).status == 0


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
        new.note(kappa=1)
    manifest, data = read_manifest(tmp_path), (tmp_path / "aug_conv.pt").read_bytes()
    assert manifest["kappa"] == 1 and manifest["files"] == {
        "aug_conv.pt": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}


def test_a_damaged_manifest_is_not_continued(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"is damaged: .*run"), Saving(tmp_path):
        raise AssertionError("it was entered")
    with Saving(tmp_path, anew=True) as new:
        new.save("a.json", "{}")
    assert list(read_manifest(tmp_path)["files"]) == ["a.json"]


def test_saving_anew_deletes_what_was_saved_before_and_nothing_else(tmp_path):
    """A mirrored Aug-Conv or labels of an earlier delivery must not travel with the new one."""
    with Saving(tmp_path) as new:
        for name in ("aug_conv.pt", "mirrored_aug_conv.pt", "labels.npy"):
            new.save(name, b"old")
    (tmp_path / "of_the_users.npy").write_bytes(b"own")
    with Saving(tmp_path, anew=True) as new:
        new.save("aug_conv.pt", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {
        "aug_conv.pt", "manifest.json", "of_the_users.npy"}


def test_saving_anew_over_a_damaged_manifest_names_what_else_is_there(tmp_path, capsys):
    with Saving(tmp_path) as new:
        new.save("labels.npy", b"old")
    (tmp_path / "manifest.json").write_text("{")
    with Saving(tmp_path, anew=True) as new:
        new.save("a.json", "{}")
    assert "also holds labels.npy: delete" in capsys.readouterr().err


def test_nothing_is_added_once_the_manifest_is_written(tmp_path):
    with Saving(tmp_path) as new:
        new.save("a.json", "{}")
        new.prepare()
        with pytest.raises(RuntimeError, match="after prepare"):
            new.save("b.json", "{}")
        with pytest.raises(RuntimeError, match="after prepare"):
            new.note(kappa=1)
    assert list(read_manifest(tmp_path)["files"]) == ["a.json"]


def test_a_folder_that_others_can_read_is_warned_of_once(tmp_path, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    private, open_to_all = tmp_path / "private", tmp_path / "open"
    private.mkdir(mode=0o700)
    open_to_all.mkdir(mode=0o755)
    monkeypatch.setattr(os, "chmod", refuse)
    keep_private(private)
    assert capsys.readouterr().err == ""
    keep_private(open_to_all)
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"warning: {open_to_all} can be read by others: {os.strerror(errno.EPERM)}"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_leaves_secret_folders_alone_whatever_the_data_folder_is_called(data, tmp_path):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    untracked = subprocess.run(["git", "ls-files", "--others", "--exclude-standard"], cwd=tmp_path,
                               check=True, capture_output=True, text=True).stdout.split()
    folders = {Path(file).relative_to(data.name).parts[0] for file in untracked}
    assert {"developer", "delivery"} <= folders and not {"provider", "decoded"} & folders


@pytest.mark.parametrize("content", [
    {"x": torch.tensor(torch.nan)}, {"x": [torch.tensor([1.0, torch.inf])]},
    {"x": {"y": torch.zeros(1).expand(10)}}], ids=["a scalar", "in a list", "one entry of ten"])
def test_tensors_that_are_not_finite_or_not_whole_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"damaged, .*: advice"):
        read_tensors(tmp_path / "a.pt", "advice")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 8 bytes")],
                         ids=["Python's", "PyTorch's"])
def test_memory_that_runs_out_is_no_damage(tmp_path, monkeypatch, error):
    """Or the advice would be --restart, which loses hours of training."""
    def fail(*_, **__):
        raise error

    torch.save({"x": torch.zeros(2)}, tmp_path / "a.pt")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        read_tensors(tmp_path / "a.pt", "advice")
    (tmp_path / "b.pt").write_bytes(b"an earlier form, which may claim more than it has")
    with pytest.raises(UserError, match="is damaged"):
        read_tensors(tmp_path / "b.pt", "advice")


@pytest.mark.parametrize("path, words", [
    ("data/delivery/aug_conv.pt", "ask the provider for it again, or to run `python gen_augconv"),
    ("elsewhere/morphed_train.npy", "ask the provider for it again, or to run `python gen_augconv"),
    ("data/queries/new/morphed.npy", "ask the provider for it again, or to run `python morph_im"),
    ("data/provider/keys/01ab/channel_order.pt", "run `python gen_augconv.py` again"),
    ("data/provider/keys/01ab/manifest.json", "run `python gen_morphing_matrix.py` again"),
    ("data/developer/with_ac.pt", "run `python train_with_ac.py --restart` again")])
def test_what_only_the_provider_can_make_is_asked_of_the_provider(path, words):
    assert remedy(Path(path)).startswith(words)


def test_rows_written_in_any_order_are_the_array(tmp_path):
    rows = np.arange(24, dtype=np.float16).reshape(6, 2, 2)
    with Saving(tmp_path) as new:
        new.save("a.npy", lambda file: write_array_header(file, rows.shape, rows.dtype))
        for first in (4, 0, 2):
            write_rows(tmp_path / "a.npy", first,
                       torch.from_numpy(rows[first:first + 2]))
    assert load_array(tmp_path / "a.npy", rows.shape, "float16").equal(torch.from_numpy(rows))
    assert (np.load(tmp_path / "a.npy") == rows).all()


def test_a_current_key_that_is_not_there_is_named_by_its_file(at):
    """As where one bit of the id has flipped."""
    data = at("gen_augconv.py")
    current = data / "provider" / "current.json"
    current.write_text('{"key": "0123456789abcdef"}')
    assert refused(step("gen_augconv.py", data), "current.json", "0123456789abcdef",
                   "gen_morphing_matrix.py")
