"""What a user reads first, and what it may load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer.main

from neuropatch._version import __version__

HEAVY = ("torch", "transformers", "numpy", "huggingface_hub", "pyarrow", "rich", "safetensors")

COMMANDS = (
    "localize",
    "plan",
    "methods",
    "apply",
    "revert",
    "inspect",
    "combine",
    "diff",
    "evaluate",
    "compare",
    "tune",
    "analyze",
    "report",
    "audit",
    "fairtune",
    "export",
    "push",
    "list",
    "layout",
    "doctor",
    "demo",
)


def test_help_loads_nothing_heavy():
    program = (
        "import json, sys\n"
        "from neuropatch.cli.app import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in json.loads(run.stderr)}
    assert loaded.isdisjoint(HEAVY)
    assert run.stdout.startswith("Usage: neuropatch")


def test_root_help_names_every_command_in_whole_sentences(cli):
    run = cli("--help")
    assert (run.code, run.err) == (0, "")
    for command in COMMANDS:
        line = next(line for line in run.out.splitlines() if line.split()[:1] == [command])
        assert line.endswith("."), line
        assert not line.endswith("..."), line


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_fits_a_terminal(command, cli):
    run = cli(command, "--help")
    assert (run.code, run.err) == (0, "")
    assert f"Examples:\n    $ neuropatch {command}" in run.out
    assert "--json" in run.out
    assert "--quiet" in run.out
    assert max(map(len, run.out.splitlines())) <= 80


def test_every_parameter_is_explained():
    from neuropatch.cli.app import app

    commands = typer.main.get_command(app).commands
    assert set(commands) == set(COMMANDS)
    for command in commands.values():
        for parameter in command.params:
            assert parameter.help, (command.name, parameter.name)
            assert parameter.help.endswith((".", "...")), (command.name, parameter.name)


def test_version(cli, process):
    assert cli("--version").out == f"neuropatch {__version__}\n"
    run = process("--version")
    assert run.communicate() == (f"neuropatch {__version__}\n", "")
    assert run.returncode == 0


def test_no_arguments_print_the_help_on_stderr(cli):
    run = cli()
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("Usage: neuropatch")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["lokalize"], "no such command 'lokalize'", "see neuropatch --help"),
        (["localize"], "missing argument 'MODEL'", "see neuropatch localize --help"),
        (["inspect", "p", "--jsn"], "no such option: --jsn", "see neuropatch inspect --help"),
        (["inspect", "p", "q"], "unexpected extra argument", "see neuropatch inspect --help"),
        (["apply", "m"], "missing argument 'PATCH", "see neuropatch apply --help"),
        (["localize", "m"], "'--output'", "see neuropatch localize --help"),
        (["localize", "m", "--seed", "x"], "'--seed'", "see neuropatch localize --help"),
        (["localize", "m", "--seed", "-1"], "'--seed'", "see neuropatch localize --help"),
        (["localize", "m", "--samples", "0"], "'--samples'", "see neuropatch localize --help"),
        (["combine", "xor", "a", "b"], "'xor'", "see neuropatch combine --help"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_understood(arguments, error, hint, cli):
    run = cli(*arguments)
    assert (run.code, run.out) == (2, "")
    first, second = run.err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert second == f"  {hint}"
