"""Answers kept by the client's own key, so that a retry is not run again."""
