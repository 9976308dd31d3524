"""`neff run`: a command and all its children with the hook, and what they met in one line at the end."""
