"""What can be said of a model: its summary and its plan."""
