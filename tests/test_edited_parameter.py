"""parameter.py edited as people edit it: each edit means what its Python says, or ends in one line.

Every edit is applied to the text of the file, in a copy of the program, and a step is then run
there as a process: a wrong edit must end it in one line, a right one must show in what it makes.
"""

import re
import shutil
import subprocess
import sys

import pytest

from tests.steps import ROOT, TINY, options_of, run

FOLDERS = ("attacks", "experiments", "images", "models", "mole", "utils")
STEP = "gen_morphing_matrix.py"     # cheap: it reads no images
SMALL = ("--dataset", "shapes", "--image_size", "16")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A copy of the program whose parameter.py the tests edit."""
    folder = tmp_path_factory.mktemp("program")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name)
    for file in ROOT.glob("*.py"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def edited(program):
    """edited(change): writes parameter.py with its text changed, by a function or by what is to
    stand in place of the setting `tile`."""
    def write(change):
        text = (ROOT / "parameter.py").read_text()
        new = change(text) if callable(change) else in_place_of_tile(change)(text)
        assert new != text, "the edit changes nothing"
        (program / "parameter.py").write_text(new)
        return program

    return write


def entry(text: str, name: str) -> str:
    """The lines of a setting in parameter.py."""
    return re.search(rf"    {name}: .*?\)\n(?=    \w|\n)", text, re.DOTALL)[0]


def in_place_of_tile(lines: str):
    return in_place_of("tile", lines)


def in_place_of(name: str, lines: str):
    return lambda text: text.replace(entry(text, name), lines + "\n")


def replaced(old: str, new: str):
    def change(text: str) -> str:
        assert text.count(old) == 1, f"{old} is there {text.count(old)} times"
        return text.replace(old, new)
    return change


def with_preset(lines: str):
    return replaced('    "demo": {\n', f'{lines}\n    "demo": {{\n')


def default_of(name: str, value: str):
    """Another default in the place of a setting's, its help and limits kept."""
    def change(text: str) -> str:
        old = entry(text, name)
        new = re.sub(r"setting\(\s*[^,]+,", f"setting({value},", old, count=1)
        return text.replace(old, new)
    return change


def forget_program():
    """Before a step of the copy runs: nothing that was imported from here is used for it."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and file.startswith(str(ROOT)) and not name.startswith("tests") \
                and "site-packages" not in file:
            del sys.modules[name]


def run_copy(program, script: str, *arguments):
    return run(str(program / script), *arguments, before=forget_program)


# The setting `tile` as it may be written so that it is 8, and what else the edit changes.
TILE_OF_8 = {
    "without the comment": "    tile: int = 8",
    "another comment": "    tile: int = 8   # x",
    "no spaces": "    tile:int=8#x",
    "old line commented out above": "    # tile: int = setting(0)\n    tile: int = 8",
    "old line commented out below": "    tile: int = 8\n    # tile: int = setting(0)",
    "own comments around it": "    # mine\n\n    # -- Mine: all of it\n    tile: int = 8\n# mine",
    "inside the helper": '    tile: int = setting(8, "of the tiles", CORE, least=0, below=10_000)',
    "the helper alone": "    tile: int = setting(8)",
    "over several lines": "    tile: int = (\n        8\n    )",
    "twice, the last counts": "    tile: int = 4\n    tile: int = 8",
    "a division": "    tile: int = 64 // 8",
    "a product": "    tile: int = 2 * 4",
    "a conditional": "    tile: int = 8 if True else 0",
    "a hexadecimal number": "    tile: int = 0x8",
    "a value of NumPy": "    import numpy\n    tile: int = numpy.int64(8)",
    "a variable": "    _side = 8\n    tile: int = _side",
    "of an earlier setting": "    tile: int = 8\n    own: int = tile",
    "two settings in a line": "    tile: int = 8; own: int = 5",
    "an own setting below": '    tile: int = 8\n    own: float = setting(1, "mine", "predict.py")',
    "a method": "    tile: int = 8\n    def twice(self):\n        return 2 * self.tile",
}
FILES_WITH_TILE_OF_8 = {
    "only the value changed": default_of("tile", "8"),
    "an import at the top": lambda text: "import os\n" + default_of("tile", "int('8')")(text),
    "annotations as texts": lambda text: ("from __future__ import annotations\n"
                                          + in_place_of_tile("    tile: int = 8")(text)),
    "an own constant": lambda text: in_place_of_tile("    tile: int = SIDE")(
        text.replace("\n\n@settings", "\n\nSIDE = 8\n\n\n@settings")),
    "Windows line ends": lambda text: default_of("tile", "8")(text).replace("\n", "\r\n"),
    "an own first line under a header": lambda text: default_of("tile", "8")(text).replace(
        "    # Images\n", "    # Images\n    # a note: mine\n"),
    "another order": lambda text: in_place_of_tile("")(text).replace(
        "    # Images\n", "    # Images\n    tile: int = 8\n"),
    "a preset deleted": lambda text: re.sub(
        r'    "demo": \{.*?\n    \},\n', "", default_of("tile", "8")(text), flags=re.DOTALL),
}
MEAN_8 = {name: in_place_of_tile(lines) for name, lines in TILE_OF_8.items()}
MEAN_8 |= FILES_WITH_TILE_OF_8


@pytest.mark.parametrize("edit", MEAN_8)
def test_an_edit_means_what_its_python_says(edited, tmp_path, edit):
    """Tiles of 8x8 pixels in 3 colours have a core of 192x192."""
    program = edited(MEAN_8[edit])
    result = run_copy(program, STEP, "--data_dir", tmp_path / "data", *SMALL)
    assert result.status == 0 and result.err == "", result
    assert "core 192x192, uniform, 8x8 tiles" in result.out


# The setting `tile` as it cannot be used, and words of the line that says so.
WRONG_TILES = {
    "a list": ("    tile: int = [4, 8]", ["tile is [4, 8], but must be a whole number"]),
    "a list in the helper": ('    tile: int = setting([4, 8], "help", CORE)', ["tile is [4, 8]"]),
    "a tuple": ("    tile: int = 4, 8", ["tile is (4, 8)", "a whole number"]),
    "a dictionary": ("    tile: int = {}", ["tile is {}", "a whole number"]),
    "a text": ('    tile: int = "8"', ["tile is '8'", "a whole number"]),
    "a fraction": ("    tile: int = 8.0", ["tile is 8.0", "a whole number"]),
    "a quotient": ("    tile: int = 64 / 8", ["tile is 8.0", "a whole number"]),
    "None": ("    tile: int = None", ["tile is None", "a whole number"]),
    "True": ("    tile: int = True", ["tile is True", "a whole number"]),
    "dots": ("    tile: int = ...", ["tile is Ellipsis", "a whole number"]),
    "an array": ("    import numpy\n    tile: int = numpy.eye(9)", ["tile is array(["]),
    "negative": ("    tile: int = -8", ["tile is -8", "of at least 0"]),
    "too large": ('    tile: int = setting(10_000, "help", CORE, below=10_000)',
                  ["tile is 10000", "from 0 to 9999"]),
    "another type": ("    tile: float = 8.5", ["tile is 8.5", "the paper's value, 0"]),
    "None allowed": ("    tile: int | None = None", ["tile is None", "the paper's value, 0"]),
    "no settings' type": ("    tile: list = [8]", ["tile is [8]", "of a type that settings have"]),
    "no type": ("    tile = 8", ["tile has no type", "`tile: int = 8`"]),
    "no value": ("    tile: int", ["tile has no value"]),
    "deleted": ("", ["the setting tile is missing", 'the preset "paper" has its value, 0']),
    "commented out": ("    # tile: int = 8", ["the setting tile is missing"]),
    "renamed": ("    tiles: int = 8", ["the setting tile is missing", "tiles is one that no step"]),
    "a typo in the helper": ("    tile: int = seting(8)", ["line 0", "'seting' is not defined"]),
    "a typo in the type": ("    tile: imt = 8", ["'imt' is not defined"]),
    "a typo in a limit": ("    tile: int = setting(8, leest=1)", ["line 0", "leest"]),
    "no comma": ('    tile: int = setting(8 "help")', ["line 0", "SyntaxError"]),
    "an open bracket": ('    tile: int = setting(8, "help"', ["SyntaxError", "parameter.py, line"]),
    "a tab": ("\ttile: int = 8", ["line 0", "Error", "tabs"]),
    "indented more": ("      tile: int = 8", ["line 0", "IndentationError"]),
    "not indented": ("tile: int = 8", ["parameter.py, line", "IndentationError"]),
    "a division by zero": ("    tile: int = 8 // 0", ["line 0", "ZeroDivisionError"]),
    "help that is no text": ("    tile: int = setting(8, CORE)", ["line 0", "is the help, a text"]),
    "an unknown group": ("    tile: int = setting(8, 'help', 3)", ["line 0", "must be a group"]),
    "a missing module": ("    import nowhere\n    tile: int = 8", ["line 0", "'nowhere'"]),
    "another setting's value": ("    tile: int = 2 * kappa", ["line 0", "give both the value"]),
    "a condition on another setting": ("    tile: int = 8 if kappa == 1 else 0",
                                       ["line 0", "give both the value of a variable"]),
    "a condition in the helper": ('    tile: int = setting(8 if model else 0, "of the tiles")',
                                  ["line 0", "the value of another setting is not known here"]),
    "another setting in a text": ('    own: str = f"of_{seed}"\n    tile: int = 8',
                                  ["line 0", "give both the value of a variable"]),
    "another setting in a text, as Python writes it": (
        '    own: str = f"of_{seed!r}"\n    tile: int = 8', ["line 0", "give both the value"]),
    "another setting in the helper": ("    tile: int = setting(kappa)",
                                      ["line 0", "give both the value of a variable"]),
    "another setting itself": ("    tile: int = kappa", ["tile is the setting kappa"]),
    "a comma behind it": ('    tile: int = setting(8, "help"),', ["tile ends in a comma"]),
    "a limit that is a text": ("    tile: int = setting(8, least='1')", ["parameter.py, line"]),
}
WRONG_FILES = {
    "a whole number 0 epochs": (in_place_of("epochs", "    epochs: int = 0"),
                                ["epochs is 0", "of at least 1"]),
    "a batch of one image": (in_place_of("batch_size", "    batch_size: int = 1"),
                             ["batch_size is 1", "a whole number of at least 2"]),
    "a batch of one in the helper": (in_place_of("batch_size", "    batch_size: int = setting(1)"),
                                     ["batch_size is 1", "of at least 2"]),
    "dropout of all": (in_place_of("dropout", "    dropout: float = 2"),
                       ["dropout is 2.0", "below 1"]),
    "a choice as a text": (in_place_of("schedule", '    schedule: str = "cosine"'),
                           ["schedule is 'cosine'", "one of halve, onecycle"]),
    "a name that leads elsewhere": (in_place_of("name", '    name: str = "../up"'),
                                    ["name is '../up'", "of letters, digits"]),
    "a secret seed that is a text": (in_place_of("morph_seed", '    morph_seed: str = "a"'),
                                     ["morph_seed is 'a'", "a whole number"]),
    "a range of one number": (in_place_of("pixel_range", "    pixel_range: tuple = (5,)"),
                              ["pixel_range is (5", "two numbers, the lower first"]),
    "a number that is none": (default_of("lr", "float('nan')"), ["lr is nan", "a number"]),
    "a choice that there is not": (default_of("schedule", '"cosine"'),
                                   ["schedule is 'cosine'", "one of halve, onecycle"]),
    "one folder as a text": (default_of("images", '"a.png"'), ["images is 'a.png'", "a tuple"]),
    "yes as a text": (default_of("restart", '"no"'), ["restart is 'no'", "True or False"]),
    "a preset of pairs": (with_preset('    "mine": {"tile": (4, 8)},'),
                          ["in the preset 'mine', tile is (4, 8)"]),
    "a preset with an unknown name": (with_preset('    "mine": {"tle": 8},'),
                                      ["the preset 'mine' has 'tle'", "did you mean tile?"]),
    "a preset with a bad value": (with_preset('    "mine": {"epochs": 0},'),
                                  ["in the preset 'mine', epochs is 0", "of at least 1"]),
    "a preset that is a value": (with_preset('    "mine": 8,'), ["the preset 'mine' is 8"]),
    "a preset with a number for a name": (with_preset('    8: {"tile": 8},'), ["the preset 8"]),
    "a preset's name without quotes": (with_preset('    mine: {"tile": 8},'),
                                       ["parameter.py, line", "'mine' is not defined"]),
    "the preset paper renamed": (replaced('    "paper": {', '    "papers": {'),
                                 ['the preset "paper" is missing']),
    "no presets": (replaced("PRESETS = {", "PRESET = {"), ["a dictionary PRESETS"]),
    "another class": (replaced("class Parameters:", "class Settings:"), ["a class Parameters"]),
    "no decorator": (replaced("@settings\n", ""), ["@settings above it"]),
    "a setting below the class": (lambda text: text + "\nParameters.tile = 8\n",
                                  ["tile was set again below the class"]),
    "an empty file": (lambda text: "", ["a class Parameters"]),
    "a null byte": (lambda text: text + "\0", ["parameter.py", "null"]),
}
WRONG = {name: (in_place_of_tile(lines), words) for name, (lines, words) in WRONG_TILES.items()}
WRONG |= WRONG_FILES


@pytest.mark.parametrize("edit", WRONG)
def test_a_wrong_edit_ends_in_one_line(edited, tmp_path, edit):
    """As a shell starts a step: the file is wrong before anything else is imported."""
    change, words = WRONG[edit]
    program = edited(change)
    text = (ROOT / "parameter.py").read_text()
    line = text[:text.index(entry(text, "tile"))].count("\n") + 1
    done = subprocess.run([sys.executable, program / STEP, "--data_dir", tmp_path / "data"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == "", done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"{STEP}: parameter.py")
    for word in words:
        assert word.replace("line 0", f"line {line}") in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_file_that_is_missing_is_named(program, tmp_path):
    (program / "parameter.py").unlink(missing_ok=True)
    done = subprocess.run([sys.executable, program / STEP], cwd=tmp_path, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{STEP}: parameter.py is missing: `git checkout parameter.py`")
    assert len(done.stderr.splitlines()) == 1


# Presets

OTHER_TILE = default_of("tile", "4")


def test_a_preset_written_the_obvious_way(edited, tmp_path):
    program = edited(with_preset('    "mine": {"tile": 8},'))
    command = (STEP, "--data_dir", tmp_path / "data", *SMALL, "--preset", "mine")
    assert "8x8 tiles" in run_copy(program, *command).out
    assert "4x4 tiles" in run_copy(program, *command, "--tile", "4").out


def test_a_preset_ignores_edits_and_says_so(edited, tmp_path):
    program = edited(OTHER_TILE)
    command = (STEP, "--data_dir", tmp_path / "data", *SMALL)
    assert "4x4 tiles" in run_copy(program, *command).out
    result = run_copy(program, *command, "--kappa", "3", "--preset", "paper")
    assert result.status == 0 and "kappa 3" in result.out
    assert result.out.splitlines()[0] == (
        "--preset paper ignores what was edited in parameter.py: tile")
    result = run_copy(program, *command, "--preset", "demo", "--tile", "8")
    assert "8x8 tiles" in result.out and "--preset" not in result.out


def test_a_preset_that_was_deleted_is_no_choice(edited, tmp_path):
    program = edited(FILES_WITH_TILE_OF_8["a preset deleted"])
    result = run_copy(program, STEP, "--data_dir", tmp_path / "data", "--preset", "demo")
    assert result.status == 2 and "'demo' (choose from" in result.message
    assert len(result.message.splitlines()) == 1


def test_a_setting_deleted_with_its_paper_value_is_named_where_it_is_used(edited, tmp_path):
    program = edited(lambda text: re.sub(r'"tile": 0,\s*', "", in_place_of_tile("")(text)))
    result = run_copy(program, STEP, "--data_dir", tmp_path / "data", *SMALL)
    assert result.status == 1
    assert result.message.startswith(f"{STEP}: parameter.py has no setting tile: put its line back")
    assert len(result.message.splitlines()) == 1


def test_an_own_setting_is_an_option_of_the_steps_that_it_names(edited):
    own = 'own: float = setting(1, "my own", "gen_morphing_matrix.py")'
    program = edited(in_place_of_tile(f"    tile: int = 8\n    {own}"))
    text = run_copy(program, STEP, "--own", "2", "--help").out
    assert re.search(r"--own X +my own \(default: 1.0\)", text)
    assert re.search(r"--tile N +\(default: 8; the paper's: 0\)", text)
    refused = run_copy(program, "pretrain.py", "--own", "2")
    assert refused.status == 2 and "--own is not used here, but by" in refused.message


def test_edited_training_settings_hold(edited, tmp_path):
    """Epochs and batches of a training step, without help and limits."""
    program = edited(lambda text: text.replace(
        entry(text, "epochs"), "    epochs: int = 1\n").replace(
        entry(text, "lr"), "    lr: float = 1\n"))
    settings = options_of("pretrain.py", TINY)
    for name in ("--epochs", "--lr"):
        del settings[settings.index(name):settings.index(name) + 2]
    result = run_copy(program, "pretrain.py", "--data_dir", tmp_path / "data", *settings)
    assert result.status == 0, result
    assert re.findall("epoch +([0-9]+)", result.out) == ["1"]


# The same interpreter, as in a notebook

@pytest.mark.parametrize("lines", ["tile: int = 8", "tile: int = 8\n    own: int = 1"],
                         ids=["another value", "a setting more"])
def test_a_step_run_again_sees_the_edits(edited, tmp_path, lines):
    """And Ctrl-C and output work as before."""
    program = edited(in_place_of_tile("    tile: int = 4"))
    text = (program / "parameter.py").read_text()
    script = tmp_path / "notebook.py"
    script.write_text(f"""
import runpy, signal, sys
for text in ({text!r}, {text.replace("tile: int = 4", lines)!r}):
    with open({str(program / 'parameter.py')!r}, "w") as file:
        file.write(text)
    sys.argv = [{STEP!r}, "--data_dir", {str(tmp_path / 'data')!r}, *{SMALL!r}]
    runpy.run_path({str(program / STEP)!r}, run_name="__main__")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
print("both have ended", file=sys.stderr)
""")
    result = run(str(script), before=forget_program)
    assert result.status == 0 and result.err == "both have ended\n", result
    first, second = [line for line in result.out.splitlines() if line.startswith("key ")]
    assert "core 48x48, uniform, 4x4 tiles" in first
    assert "core 192x192, uniform, 8x8 tiles" in second
