"""Claims that hold under kills, torn writes and failing system calls."""
