"""What to compress: tasks, and the built-in studies that users can copy."""
