"""Who compiles what on this host, who waits for it, and which locks have lost their maker."""
