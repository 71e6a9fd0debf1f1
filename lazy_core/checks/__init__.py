"""What may come from a stranger: files, their JSON, pictures; and the errors that say what is wrong with it."""
