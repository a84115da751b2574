"""``python -m cellwork``."""

from cellwork.cli import main

main()
