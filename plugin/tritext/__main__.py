"""``python -m tritext``: the command, where its folder is not on PATH."""

from tritext.cli import main

if __name__ == "__main__":
    main()
