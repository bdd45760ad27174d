"""``python -m neuropatch`` is the ``neuropatch`` command."""

from neuropatch.cli.app import main

if __name__ == "__main__":
    main()
