"""The acceptance: what the project promises, checked on workspaces of its own, module by module."""
