"""The stories: notebooks that call reports and explain; no definitions of their own."""
