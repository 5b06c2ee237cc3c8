"""Claims about the log."""
