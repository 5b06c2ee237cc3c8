"""Deliveries from outside: what each sender's payload says, and what becomes of it. Pure; nothing here reads a file."""
