"""``python -m apfunc`` is the command ``apfunc``."""

from apfunc.cli import main

if __name__ == "__main__":
    main()
