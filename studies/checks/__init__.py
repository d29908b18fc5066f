"""What is checked of a task, part by part: its networks, its loaders, its training and its scores."""
