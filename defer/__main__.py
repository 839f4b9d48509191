"""``python -m defer`` is the command line."""

from defer.cli import main

if __name__ == "__main__":
    main()
