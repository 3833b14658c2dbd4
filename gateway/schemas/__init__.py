"""Wire types of both sides: values only, tolerant of fields they do not know."""
