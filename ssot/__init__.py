"""What is true: the task document, its states and rules, and the one store that writes it."""
