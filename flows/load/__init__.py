"""Load runs: what they send, who sends it, what is measured, and what it means. Load goes to this machine only."""
