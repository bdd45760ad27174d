"""Run the test Hub by hand; see the package's docstring."""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path

from . import FakeHub, __doc__


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--root", type=Path, help="folder for files (default: a temporary one)")
    parser.add_argument(
        "--serve",
        action="append",
        default=[],
        metavar="ID=FOLDER",
        help="create the repo ID with the files of FOLDER",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = args.root or Path(folder)
        with FakeHub(root, port=args.port) as hub:
            token = hub.add_user("ada")
            for repo_id, _, source in (item.partition("=") for item in args.serve):
                paths = [path for path in Path(source).rglob("*") if path.is_file()]
                hub.upload(repo_id, {str(path.relative_to(source)): path for path in paths})
            print(f"export HF_ENDPOINT={hub.url} HF_TOKEN={token}")
            print(f"export HF_HUB_DISABLE_XET=1 HF_HOME={root / 'home'}", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                print(*hub.log.requests, sep="\n")


if __name__ == "__main__":
    main()
