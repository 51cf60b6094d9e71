"""`python -m objectcache`: the command line."""

from objectcache.cli import main

main()
