"""From the records of a source to the rows of a task: parsing, splits, duplicates, lengths. Only `prepare` uses it."""
