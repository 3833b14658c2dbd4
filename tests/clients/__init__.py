"""The official OpenAI clients, unchanged, against a gateway in front of a simulator."""
