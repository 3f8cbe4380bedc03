"""How a step ends: what each error of the system says, and what its reader can do."""

import errno
import os
import signal
import sys

import pytest

from tests.steps import killed_before, options_of, refusing, run, start, wait_until
from utils import step
from utils.provenance import provenance

SMALL = ("--dataset", "shapes", "--image_size", "8")
TINY_TRAINING = options_of("pretrain.py", (
    *SMALL, "--train_limit", "64", "--test_limit", "32", "--model", "vgg11", "--batch_size", "16",
    "--epochs", "1000", "--device", "cpu"))
AGAIN = "run the same command again to continue"


def end_of(capsys, monkeypatch, tmp_path, error: BaseException, *options, script="pretrain.py"):
    """The line that a step ends with when its work raises an error."""
    def work(p):
        raise error

    monkeypatch.setattr(sys, "argv", [script, "--data_dir", str(tmp_path / "data"), *options])
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)      # Ctrl-C must not end pytest
    with pytest.raises(SystemExit) as stop:
        step.run_step(work, "")
    message = str(stop.value.code).strip()
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{script}: ")
    return message


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "folder/file.pt")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO],
                         ids=["disk full", "quota", "input or output"])
def test_an_error_that_passes_promises_that_the_same_command_continues(
        capsys, monkeypatch, tmp_path, number):
    message = end_of(capsys, monkeypatch, tmp_path, system_error(number))
    assert f"folder/file.pt: {os.strerror(number)}; no file is half written" in message
    assert AGAIN in message


@pytest.mark.parametrize("number, advice", [
    (errno.EACCES, "change the permissions"), (errno.EROFS, "that can be written"),
    (errno.ENOENT, "correct the path"), (errno.ENOTDIR, "correct the path"),
    (errno.EISDIR, "correct the path"), (errno.ENAMETOOLONG, "choose a shorter name")],
    ids=["permission", "read only", "missing", "a file as a folder", "a folder as a file",
         "long name"])
def test_an_error_that_stays_promises_nothing_of_the_kind(
        capsys, monkeypatch, tmp_path, number, advice):
    message = end_of(capsys, monkeypatch, tmp_path, system_error(number))
    assert message.endswith(advice) or f"; {advice}" in message
    assert "continue" not in message


@pytest.mark.parametrize("error", [KeyboardInterrupt(), system_error(errno.ENOSPC)],
                         ids=["Ctrl-C", "disk full"])
def test_after_restart_it_is_the_command_without_it_that_continues(
        capsys, monkeypatch, tmp_path, error):
    message = end_of(capsys, monkeypatch, tmp_path, error, "--restart")
    assert "run the command with --restart no to continue" in message
    assert AGAIN not in message


def test_a_record_has_the_load_of_the_start_not_of_the_end(monkeypatch, tmp_path):
    """Also of a second step in the same interpreter."""
    for at_the_start in (0.25, 0.5):
        monkeypatch.setattr(os, "getloadavg", lambda load=at_the_start: (load, 0, 0))
        records = []

        def work(p, records=records):
            monkeypatch.setattr(os, "getloadavg", lambda: (9, 0, 0))
            records.append(provenance(p))

        monkeypatch.setattr(sys, "argv", ["pretrain.py", "--data_dir", str(tmp_path)])
        step.run_step(work, "")
        assert records[0]["load"] == at_the_start


def test_out_of_memory_names_what_the_step_can_do(capsys, monkeypatch, tmp_path):
    message = end_of(capsys, monkeypatch, tmp_path, MemoryError())
    assert "out of memory; try fewer images (--train_limit)" in message
    assert "--batch_size" in message and "--tile" not in message
    message = end_of(capsys, monkeypatch, tmp_path, MemoryError(), script="gen_morphing_matrix.py")
    assert "a --tile" in message and "--batch_size" not in message


def without_a_compiler():
    os.environ.pop("CXX", None)
    os.environ["PATH"] = "/nowhere"


def test_compile_without_a_compiler_is_refused_before_training(tmp_path):
    result = run("pretrain.py", "--data_dir", tmp_path, *TINY_TRAINING, "--compile",
                 before=without_a_compiler)
    assert result.status == 2 and len(result.message.splitlines()) == 1, result
    assert "install a C++ compiler" in result.message and "leave --compile out" in result.message
    assert "training on" not in result.out
    assert not (tmp_path / "developer").exists()


def test_compile_is_refused_where_nothing_is_compiled(tmp_path):
    result = run("predict.py", "--data_dir", tmp_path, "--compile")
    assert result.status == 2 and "--compile is not used here, but by pretrain.py" in result.message


def test_an_error_of_the_program_itself_keeps_its_traceback(monkeypatch, tmp_path):
    def work(p):
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--data_dir", str(tmp_path / "data")])
    with pytest.raises(RuntimeError, match="a mistake in the program"):
        step.run_step(work, "")


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_data_folder_that_is_a_file(tmp_path, folder):
    (tmp_path / "file").write_text("in the way")
    result = run("gen_morphing_matrix.py", "--data_dir", tmp_path / folder, *SMALL)
    assert result.status == 1
    assert result.message == (f"gen_morphing_matrix.py: {tmp_path / folder} is not a folder: "
                              "choose another --data_dir")


def test_a_data_folder_with_a_long_name(tmp_path):
    result = run("gen_morphing_matrix.py", "--data_dir", tmp_path / ("x" * 300), *SMALL)
    assert result.status == 1 and len(result.message.splitlines()) == 1
    assert result.message.endswith("File name too long; choose a shorter name")


def test_ctrl_c_in_training_names_the_last_finished_epoch(tmp_path):
    """And the command that continues is not the one with --restart."""
    running = start("pretrain.py", "--data_dir", tmp_path / "data", *TINY_TRAINING, "--restart")
    wait_until((tmp_path / "data/developer/pretrained.checkpoint.pt").exists)
    running.send(signal.SIGINT)
    result = running.wait()
    assert result.status == -signal.SIGINT              # so that a loop in a shell ends too
    assert result.message == ("pretrain.py: stopped; run the command with --restart no to continue "
                              "from the last checkpoint, or the same command again if no epoch was "
                              "finished")


def test_ctrl_c_in_a_step_without_epochs(tmp_path):
    result = run("gen_morphing_matrix.py", "--data_dir", tmp_path / "data", *SMALL,
                 before=killed_before("rename", "morphing_matrix.pt", by=signal.SIGINT))
    assert result.status == -signal.SIGINT
    assert result.message == (
        "gen_morphing_matrix.py: stopped; run it again: it draws another key")


def test_a_step_that_failed_leaves_ctrl_c_and_stdout_as_they_were(capsys, monkeypatch, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    end_of(capsys, monkeypatch, tmp_path, OSError("without a file name"))
    assert signal.getsignal(signal.SIGINT) is before
    print("still here")
    assert "still here" in capsys.readouterr().out


def test_the_lock_goes_with_the_step(tmp_path):
    """Also after an error; while it is held, another step is refused."""
    folder = tmp_path / "data"
    with pytest.raises(ZeroDivisionError), step.locked(folder):
        1 / 0   # noqa: B018
    another = pytest.raises(step.UserError, match="another step is running on")
    with step.locked(folder), another, step.locked(folder):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP],
                         ids=["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_gives_a_warning(tmp_path, number):
    """Also where an earlier step has left its lock file."""
    command = ("gen_morphing_matrix.py", "--data_dir", tmp_path / "data", *SMALL, "--tile", "2")
    assert run(*command).err == ""
    result = run(*command, before=refusing("fcntl.flock", number))
    assert result.status == 0
    assert result.message.startswith("warning: ") and len(result.message.splitlines()) == 1
    assert "cannot be locked: run one step at a time" in result.message
