"""The audit log: append-only, hashed as an RFC 6962 tree, durable before anyone acts on it."""
