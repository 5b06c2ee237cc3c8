"""Claims about the importers."""
