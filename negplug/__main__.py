"""``python -m negplug`` is the ``negplug`` command."""

from negplug.cli import main

if __name__ == "__main__":
    main()
