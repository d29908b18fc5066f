"""Training a student with its teacher: outputs, features, attention."""
