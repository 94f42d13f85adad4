"""From downloaded archives to what a task or `from_pretrained` reads: one file per source format."""
