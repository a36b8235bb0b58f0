"""The command line, exit codes, and several processes."""
