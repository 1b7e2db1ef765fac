"""`python -m gentle_core` is `gentle`."""

from gentle_core.cli import main

if __name__ == "__main__":
    main()
