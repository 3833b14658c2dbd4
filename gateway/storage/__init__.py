"""Where files are kept: whole objects by key, in a directory or in object storage."""
