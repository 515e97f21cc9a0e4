"""In-context learning: prompts with demonstrations, and the function vectors of their tasks."""
