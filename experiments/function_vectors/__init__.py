"""What exp8 and exp11 share: tasks, and the prompts of a query."""
