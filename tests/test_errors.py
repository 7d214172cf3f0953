import pickle
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from guided_diffusion.errors import InputError, Parser, check_range


def test_library_errors_name_parameters_and_command_lines_flags():
    error = InputError("`seed` -1: with `large` from a/large b.pt; must be 0 or more")
    assert str(error) == "seed -1: with large from a/large b.pt; must be 0 or more"
    expected = "--seed -1: with --large_recep from a/large b.pt; must be 0 or more"
    assert error.with_flags({"large": "--large_recep"}) == expected
    assert pickle.loads(pickle.dumps(error)).with_flags({"large": "--large_recep"}) == expected


def test_numbers_on_the_command_line_have_bounds():
    args = Namespace(seeds=3, size=[8, 0], none=None, huge=10**5000)
    check_range(args, seeds=(1, 3), none=(1, 2))
    with pytest.raises(InputError, match=r"--size 0: must be from 1 to 65,536"):
        check_range(args, size=(1, 2**16))
    with pytest.raises(InputError, match=r"--huge a value that cannot be printed: must be from 1 to 2"):
        check_range(args, huge=(1, 2))


FULL = """
from guided_diffusion.errors import InputError, run_cli

def main(argv):
    {}

run_cli(main)
"""


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("print('text')", "the output: No space left on device"),
        ("open('no/where')", "no/where: No such file or directory"),
        ("import os; os.mkdir('a'); os.chdir('a'); os.rmdir('../a'); os.getcwd()", "the current folder: No such file"),
        ("raise InputError('a\\x1b[2J\\u202eb' * 10**5 + ' end; mend it')", r"a\x1b[2J\u202eba\x1b"),
    ],
)
def test_files_and_output_that_fail_are_one_line(body, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", FULL.format(body)]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert subprocess.run(command, stdout=full, stderr=full).returncode == 2
        closed = ["sh", "-c", '"$@" 2>&-', "sh", *command]
        assert subprocess.run(closed, stdout=full).returncode == 2
    assert result.returncode == 2 and result.stderr.startswith(f"error: {line}") and result.stderr.count("\n") == 1
    assert len(result.stderr) < 2100 and "; " in result.stderr


def test_what_a_shell_leaves_of_a_variable_that_is_not_set_is_no_value():
    parser = Parser()
    parser.add_argument("--seed", type=int)
    parser.add_argument("--set")
    assert vars(parser.parse_args(["--seed=-1", "--set=key="])) == {"seed": -1, "set": "key="}
    for words in (["--seed=--"], ["--seed="], ["--seed", ""], ["--set", "a", "--seed="]):
        with pytest.raises(InputError, match="^--seed: has no value"):
            parser.parse_args(words)
    with pytest.raises(InputError, match="^an argument is empty; --help"):
        parser.parse_args([""])
