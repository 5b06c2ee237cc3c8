"""What happened: the append-only log, its files, its clock. Knows nothing of tasks' rules, Prefect or HTTP."""
