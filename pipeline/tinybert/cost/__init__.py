"""A sketch of what each stage will cost: its steps, and about how many minutes it takes on this machine."""
