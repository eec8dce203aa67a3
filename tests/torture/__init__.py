"""The long tests: what an hour of attack and load does to the package. See `python -m torture --help`."""
