"""The command: it parses, calls and prints, and decides nothing."""
