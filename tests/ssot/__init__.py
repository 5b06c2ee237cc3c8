"""Claims about the task document, its rules and its store."""
