"""HTTP resources, thin: each asks storage or the supervisor and says what it heard."""
