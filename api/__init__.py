"""What is asked: the HTTP surface, which reads, writes and broadcasts, and does not judge."""
