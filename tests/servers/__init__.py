"""Real Redis servers that tests start, stop, freeze and send through time."""
