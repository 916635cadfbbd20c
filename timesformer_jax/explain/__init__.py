"""What a model looks at and what it knows, for people to see."""
