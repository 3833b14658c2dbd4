"""What of the chart is generated: `python -m helm`."""
