"""Claims about the HTTP surface."""
