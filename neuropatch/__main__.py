"""``python -m neuropatch`` is the ``neuropatch`` command."""

import sys

try:
    from neuropatch.cli.app import main
except ModuleNotFoundError as error:
    if error.name != "neuropatch.cli":
        raise
    # The folder of the sources hides the installed package, and the command line is not in it.
    sys.exit(
        "error: the current folder holds neuropatch's sources, which hide the installed package\n"
        "  run the command neuropatch, or change to another folder"
    )

if __name__ == "__main__":
    main()
