"""``python -m pdp_export`` is the command line."""

from pdp_export.cli.main import main

if __name__ == "__main__":
    main()
