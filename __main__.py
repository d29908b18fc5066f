"""``python -m autocompress``: the same as the ``autocompress`` command."""

from .cli import main

if __name__ == "__main__":
    main()
