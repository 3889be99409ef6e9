"""`python -m longrec`: the command line."""

from longrec.cli.main import main

main()
