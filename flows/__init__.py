"""What takes time: dispatch, review and the watchdog, as plain async code that Prefect runs."""
