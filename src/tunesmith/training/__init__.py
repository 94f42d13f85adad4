"""The loop: rows in, trained parameters out, everything measured on the way."""
