"""`python -m fedbraid`: the command line."""

from fedbraid.cli import main

main()
