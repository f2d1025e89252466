"""The commands show no warnings that torch and Detectron2 cause in each other."""

import ast
import inspect
import pathlib
import re
import signal
import subprocess
import sys
import warnings

import pytest

from ranking_det import analysis, data, evaluation
from ranking_det.library_warnings import hide_in_commands, hide_library_warnings

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("message", "category"),
    [
        ("`torch.jit.script` is deprecated. Please switch to `torch.compile`", FutureWarning),
        ("torch.meshgrid: in an upcoming release, it will be required to", UserWarning),
        ("pkg_resources is deprecated as an API. See https://setuptools.pypa.io", UserWarning),
        ("pkg_resources is deprecated as an API", DeprecationWarning),
    ],
)
def test_the_warnings_of_libraries_are_hidden_and_others_are_shown(message, category):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        hide_library_warnings()
        warnings.warn(message, category, stacklevel=1)
        warnings.warn("the learning rate is high", category, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["the learning rate is high"]


@pytest.mark.parametrize(("argv0", "is_hidden"), [("-m", True), ("/usr/bin/pytest", False)])
def test_warnings_are_hidden_only_if_a_module_starts_as_a_command(argv0, is_hidden, monkeypatch):
    monkeypatch.setattr(sys, "argv", [argv0, "--help"])
    with warnings.catch_warnings():
        warnings.resetwarnings()
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
        hide_in_commands()
        assert bool(warnings.filters) == is_hidden
    assert (sys.excepthook is not sys.__excepthook__) == is_hidden


@pytest.mark.parametrize(
    ("error", "shown"), [("KeyboardInterrupt", "stopped by SIGINT\n"), ("ValueError", "Traceback")]
)
def test_an_interrupt_gives_one_line_and_other_errors_give_their_traceback(error, shown):
    code = f"from ranking_det.library_warnings import *\nshorten_interrupts()\nraise {error}"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert completed.returncode == (-signal.SIGINT if error == "KeyboardInterrupt" else 1)
    assert completed.stderr.startswith(shown)
    assert ("Traceback" in completed.stderr) == (shown == "Traceback")


@pytest.mark.parametrize("package", [analysis, data, evaluation], ids=lambda p: p.__name__)
def test_a_package_with_a_command_hides_warnings_before_its_other_imports(package):
    statements = ast.parse(inspect.getsource(package)).body[1:]  # after the docstring
    assert [ast.unparse(statement) for statement in statements[:2]] == [
        "from ranking_det.library_warnings import hide_in_commands",
        "hide_in_commands()",
    ]


def test_the_converter_hides_warnings_before_its_imports_of_torch():
    body = ast.parse((ROOT / "tools" / "convert_weights.py").read_text()).body
    statements = [ast.unparse(statement) for statement in body]
    calls = "    hide_library_warnings()\n    shorten_interrupts()"
    index = statements.index(f"if __name__ == '__main__':\n{calls}")
    loads = [
        i for i, line in enumerate(statements) if re.match("(from|import) torch|.*engine", line)
    ]
    assert index < min(loads)
