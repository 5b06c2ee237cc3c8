"""Claims about the pipeline, the agents and the dispatcher."""
