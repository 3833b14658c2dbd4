"""What outlives a request and a replica: records, results, and work that is due."""
