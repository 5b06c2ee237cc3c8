"""The claims this project makes, one test file per module."""
