"""Fine-tunes and LLMTune's own jobs, through the gateway and the simulator."""
