"""What surrounds a step: streams, encodings, file systems, Matplotlib's settings, memory limits."""

import errno
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tests.damage import change, refused, same, step, with_settings
from tests.steps import ENVIRONMENT, ROOT, free_memory, refusing
from utils import artifacts, memory
from utils.artifacts import load
from utils.memory import aug_conv_bytes
from utils.settings import options_of


def program(script, data, redirect="", **environment):
    """A step as a shell starts it, in a folder that is not the program's."""
    command = [sys.executable, ROOT / script, "--data_dir", data,
               *options_of(script, with_settings(data))]
    kept = os.environ | {name: value for name, value in ENVIRONMENT.items() if "THREADS" in name}
    for name in ("PYTHONPATH", "PYTHONUNBUFFERED"):
        kept.pop(name, None)
    return subprocess.run(["sh", "-c", f"{shlex.join(map(str, command))} {redirect}"],
                          cwd=data, env=kept | environment, capture_output=True, text=True,
                          timeout=300)


# Streams

@pytest.mark.parametrize("script, redirect", [
    ("gen_morphing_matrix.py", ">&-"), ("predict.py", "<&- >&- 2>&-")],
    ids=["output", "all"])
def test_closed_streams(at, stages, script, redirect):
    """Nothing that the step opens takes their place, and nothing fails to print."""
    done = program(script, at(script), redirect)
    assert done.returncode == 0 and done.stderr == "", done
    assert same(at.folder, stages, script)


@pytest.mark.parametrize("redirect, words", [
    (">/dev/full", "No space left"), ("| true", "Broken pipe")], ids=["full", "a closed pipe"])
def test_output_that_goes_nowhere(at, redirect, words):
    """One line says so, and none when Python ends."""
    done = program("gen_morphing_matrix.py", at("gen_morphing_matrix.py"), redirect)
    assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.returncode == (0 if "|" in redirect else 1)          # a pipe's is its last's


def test_ctrl_c_when_all_is_done(at, stages, tmp_path):
    """While Python ends: not a word, and not a failure."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)\n")
    done = program("gen_morphing_matrix.py", at("gen_morphing_matrix.py"), PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert same(at.folder, stages, "gen_morphing_matrix.py")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_output_in_few_letters(at, stages, encoding):
    """A folder and a mistake that the encoding has no letters for."""
    data = shutil.move(at("gen_morphing_matrix.py"), at.folder.with_name("κ 写真"))
    result = step("gen_morphing_matrix.py", data, before=partial(_encoded, encoding))
    assert result.status == 0 and result.err == "", result
    assert r"\u03ba \u5199\u771f" in result.out and same(data, stages, "gen_morphing_matrix.py")
    result = step("pretrain.py", data, "--dataset", "写真", before=partial(_encoded, encoding))
    assert result.status == 1 and r"\u5199\u771f" in result.message
    assert len(result.message.splitlines()) == 1


def _encoded(encoding):
    """As PYTHONIOENCODING does."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding=encoding, errors="strict")


# Pictures

def test_surroundings_that_do_no_harm(at, stages):
    """A notebook's backend and encoding; a folder of settings that cannot be made."""
    done = program("predict.py", at("predict.py"), PYTHONSAFEPATH="1", PYTHONIOENCODING="ascii",
                   MPLBACKEND="module://matplotlib_inline.backend_inline",
                   MPLCONFIGDIR="/dev/null/nowhere")
    assert done.returncode == 0, done.stderr
    assert same(at.folder, stages, "predict.py")


def test_broken_settings_of_matplotlib_cost_no_more_than_pictures(at, stages, tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe\x00 damaged")
    done = program("predict.py", at("predict.py"), MATPLOTLIBRC=str(tmp_path / "matplotlibrc"))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    table = "developer/predictions/with_ac/queries/predictions.csv"
    assert (at.folder / table).read_bytes() == (stages["end"] / table).read_bytes()
    assert "warning: " in done.stderr and "could not be drawn" in done.stderr


# File systems

@pytest.mark.parametrize("function, number, words", [
    ("fcntl.flock", errno.ENOLCK, "cannot be locked: run one step at a time"),
    ("fcntl.flock", errno.EOPNOTSUPP, "cannot be locked: run one step at a time"),
    ("os.fsync", errno.EINVAL, "a power cut may undo the last files"),
    ("os.chmod", errno.EPERM, "can be read by others")],
    ids=["no locks", "no locks on a network's", "no flush of folders", "no modes"])
def test_file_systems_without_a_service(at, stages, function, number, words):
    """A warning says what is weaker, and the step continues."""
    data = at("gen_morphing_matrix.py")
    (data / "provider").mkdir(mode=0o755)
    result = step("gen_morphing_matrix.py", data,
                  before=refusing(function, number, folders=function == "os.fsync"))
    assert result.status == 0, result
    lines = set(result.message.splitlines())
    assert lines and all(line.startswith("warning: ") and words in line for line in lines), lines
    assert same(at.folder, stages, "gen_morphing_matrix.py")


def test_a_disk_that_fails_is_no_missing_service(at):
    result = step("gen_morphing_matrix.py", at("gen_morphing_matrix.py"),
                  before=refusing("os.fsync", errno.EIO))
    assert result.status == 1 and "Input/output error" in result.message
    assert not [file for file in (at.folder / "provider").rglob("*") if file.is_file()]


def test_a_file_system_without_modes_is_told(tmp_path, monkeypatch, capsys):
    """Of a folder that others can read, and whose mode is what it was after chmod."""
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "chmod", lambda *_, **__: None)
    with artifacts.Saving(tmp_path, secret=True):
        pass
    assert "keeps no modes" in capsys.readouterr().err and not artifacts.is_private(tmp_path)


# Memory

MEMINFO = {"/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n"}
UNIFIED, FIRST = "/sys/fs/cgroup", "/sys/fs/cgroup/memory"


def group(folder, limit, used=0, cache=0):
    """The files of a control group; those of version 1 are named otherwise."""
    names = (("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
             if folder.startswith(FIRST) else ("memory.max", "memory.current", "inactive_file"))
    return {f"{folder}/{names[0]}": f"{limit}\n", f"{folder}/{names[1]}": f"{used}\n",
            f"{folder}/memory.stat": f"anon 5\n{names[2]} {cache}\n"}


CONTROL_GROUPS = {
    "none": ("0::/\n", {}, 8000 * 1024),
    "one, with a cache": ("0::/\n", group(UNIFIED, 5000, 1000, 200), 4200),
    "the outer is tighter": ("0::/a/b\n", group(f"{UNIFIED}/a", 5000, 1000)
                             | group(f"{UNIFIED}/a/b", "max"), 4000),
    "the inner is tighter": ("0::/a/b\n", group(f"{UNIFIED}/a", 9000)
                             | group(f"{UNIFIED}/a/b", 700, 100, 50), 650),
    "no limit": ("0::/a\n", group(f"{UNIFIED}/a", "max"), 8000 * 1024),
    "a path that leads out": ("0::/../../x\n", group(UNIFIED, 3000), 3000),
    "version 1": ("7:cpu:/c\n5:memory:/a/b\n0::/\n", group(f"{FIRST}/a", 6000, 1000), 5000),
    "version 1, in a container": ("5:hugetlb,memory:/docker/x\n",
                                  group(FIRST, 2000, 500, 100), 1600),
    "version 1, no limit": ("5:memory:/a\n", group(f"{FIRST}/a", 2**63 - 4096), 8000 * 1024)}


@pytest.mark.parametrize("name", CONTROL_GROUPS)
def test_the_tightest_control_group_counts(monkeypatch, name):
    cgroup, groups, free = CONTROL_GROUPS[name]
    files = MEMINFO | {"/proc/self/cgroup": cgroup} | groups

    def read(path):
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(memory, "_read", read)
    assert memory.free_memory(torch.device("cpu")) == free


def test_memory_says_what_would_fit_and_it_does(at):
    data = at("gen_morphing_matrix.py")
    free = free_memory(48 * 70 ** 2)                     # a core 70x70 and no larger
    assert refused(step("gen_morphing_matrix.py", data, before=free), "a core of 192x192",
                   "--kappa 3 or a --tile would fit")
    assert step("gen_morphing_matrix.py", data, "--kappa", "3", before=free).status == 0
    needed = aug_conv_bytes(192 * 4096)
    assert refused(step("gen_augconv.py", data, before=free_memory(needed - 1)), "Aug-Conv takes",
                   "--tile")
    assert step("gen_augconv.py", data, before=free_memory(needed)).status == 0
    assert refused(step("train_with_ac.py", data, before=free_memory(4 * 192 * 4096 - 1)),
                   "Aug-Conv takes", "ask the provider for tiles")
    free = free_memory(10**5)                            # with tiles each step fits
    assert refused(step("gen_morphing_matrix.py", data, "--tile", "8", before=free),
                   "choose a smaller --tile")
    assert step("gen_morphing_matrix.py", data, "--tile", "2", before=free).status == 0


def test_a_delivery_larger_than_memory_trains_alike(at):
    """The weights do not depend on where images and features are read."""
    data, networks = at("gen_morphing_matrix.py"), []
    for script in ("gen_morphing_matrix.py", "gen_augconv.py"):
        assert step(script, data, settings=("--tile", "4")).status == 0
    free = free_memory(10**5)                            # of 74 kB of images, 1.6 MB of features
    assert refused(step("train_with_ac.py", data, "--feature_cache", "on", before=free),
                   "keeping the first layer's output takes", "--feature_cache off")
    for before, words in ((free, "batch by batch"), (None, "runs once")):
        result = step("train_with_ac.py", data, "--restart", before=before)
        assert result.status == 0 and words in result.out
        networks.append(load(data / "developer" / "with_ac.pt")["network"])
    assert all(w.equal(networks[1][name]) for name, w in networks[0].items())


def small(num_classes):
    """A network that costs nothing: its first layer sees an image of 8x8 once."""
    return nn.Sequential(nn.Conv2d(3, 2, 8, stride=8), nn.Flatten(), nn.Linear(2, num_classes))


def _limit(size):
    """No more than so many bytes of new memory; a file that is read where it lies takes none."""
    with open("/proc/self/status") as file:
        now = int(re.search(r"VmData:\s+(\d+) kB", file.read())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("script, more", [("train_with_ac.py", ()),
                                          ("train_no_ac.py", ("--standardise",))])
def test_images_need_not_fit_in_memory(at, script, more):
    """200 000 of them, 154 MB, with 100 MB to be had."""
    data, count = at("pretrain.py"), 200_000
    network = ("--model", "tests.test_system:small", "--batch_size", "2000", "--epochs", "1")
    for name in ("pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py"):
        assert step(name, data, settings=(*network, "--batch_size", "16")).status == 0
    morphed, labels = (data / "delivery" / f"{kind}_train.npy" for kind in ("morphed", "labels"))
    rows = np.load(morphed)
    change(morphed, array=np.resize(rows, (count, 192)))
    change(labels, array=np.resize(np.load(labels), count))
    change(data / "delivery" / "manifest.json", train_images=count)
    result = step(script, data, *more, settings=network, before=partial(_limit, 100 * 10**6))
    assert result.status == 0, result
    assert f"training on {count} images" in result.out
