"""The scenarios of openai-python, run inside the environment of one of its versions."""
