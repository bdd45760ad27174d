"""``neuropatch methods``."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

from neuropatch.methods._base import DATA, find_method, method_names


def test_every_method_is_listed_with_what_it_needs(cli):
    run = cli("methods")
    assert (run.code, run.err) == (0, "")
    for name in method_names():
        (line,) = (line for line in run.out.splitlines() if line.split()[:1] == [name])
        assert find_method(name).summary.startswith(line.removeprefix(name).strip())
    listed = " ".join(run.out.split())
    spin = "finds weights; needs --dataset NAME=FILE, --general FILE; arXiv 2410.16672"
    assert spin in listed


def test_json_is_the_declarations(cli):
    documents = json.loads(cli("methods", "--json").out)["methods"]
    assert [one["name"] for one in documents] == list(method_names())
    for document in documents:
        method = find_method(document["name"])
        assert document["granularity"] in ("weights", "units", "both")
        assert document["needs"] == [DATA[data] for data in DATA if data in method.needs]
        config = method.config()
        for parameter in document["parameters"]:
            assert parameter["default"] == getattr(config, parameter["name"])


@pytest.mark.parametrize("name", method_names())
def test_every_parameter_is_explained_with_the_option_that_sets_it(name, cli):
    from neuropatch.cli.localize import localize
    from neuropatch.cli.options import METHOD_PARAMETERS

    options = inspect.signature(localize).parameters
    assert set(METHOD_PARAMETERS) <= set(options)
    document = json.loads(cli("methods", name, "--json").out)
    assert document["parameters"]
    for parameter in document["parameters"]:
        assert parameter["meaning"].endswith("."), parameter["name"]
        assert "`" not in parameter["meaning"], parameter["name"]
        own = parameter["option"] == f"--{parameter['name'].replace('_', '-')}"
        assert not own or parameter["name"] in options
        assert own or parameter["option"] == f"--set {parameter['name']}=VALUE"
    run = cli("methods", name)
    assert all(one["option"] in run.out for one in document["parameters"])
    assert max(map(len, run.out.splitlines())) <= 100


def test_an_unknown_method_is_refused_with_those_there_are(cli):
    run = cli("methods", "nothing")
    assert (run.code, run.out) == (1, "")
    assert run.err == (
        f"error: there is no method 'nothing'\n  choose from {', '.join(method_names())}\n"
    )


def test_names_alone_load_no_method():
    program = (
        "import json, sys\n"
        "from neuropatch.cli.app import main\n"
        "try:\n    main(['methods', '--quiet'])\n"
        "finally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == list(method_names())
    loaded = {name.partition(".")[0] for name in json.loads(run.stderr)}
    assert loaded.isdisjoint({"torch", "transformers"})
