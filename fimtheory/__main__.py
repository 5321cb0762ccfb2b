"""``python -m fimtheory``: the command line."""

from fimtheory.cli import main

if __name__ == "__main__":
    main()
