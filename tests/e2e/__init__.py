"""Claims about the whole, through real processes and a real Prefect server."""
