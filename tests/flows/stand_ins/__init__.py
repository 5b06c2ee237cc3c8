"""Programs that take the arguments of command-line agents and print what those print."""
