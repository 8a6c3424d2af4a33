"""Paper B, whole and past it: how the best strength falls with the examples."""
