"""Many edits without a person: a manifest becomes a plan, executors make it, a journal remembers what is done."""
