"""Files of settings: a config of the user, a stored one as data, and what differs on resume."""
