"""Claims about load runs: what they send, measure and judge."""
