"""`python -m dm2`."""

from dm2.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
