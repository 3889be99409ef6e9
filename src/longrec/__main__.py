"""`python -m longrec`: the command line."""

from longrec.cli.main import main

if __name__ == "__main__":
    main()
