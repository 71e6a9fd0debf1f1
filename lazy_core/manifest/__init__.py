"""Many edits in one file, or in a folder of pictures."""
