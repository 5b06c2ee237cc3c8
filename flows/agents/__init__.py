"""Adapters to executors and reviewers: everything an agent says is parsed here, and nothing is believed."""
