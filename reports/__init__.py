"""What it means: events and samples as tables, figures and pages; reads only."""
