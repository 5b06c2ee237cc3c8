"""How far a reviewer can be relied on: recorded work, known to be good or bad, is put before it, blind."""
