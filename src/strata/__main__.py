"""``python -m strata``: the same as ``strata``, where that is not on the path."""

from strata.cli.main import main

if __name__ == "__main__":
    main()
