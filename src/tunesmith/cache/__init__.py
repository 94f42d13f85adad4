"""What is computed once and kept: read rows, encoded rows and hidden states, keyed by what they depend on."""
