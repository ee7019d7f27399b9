"""What `wren` can be asked for, some verbs a file; wren/cli.py puts them together."""
