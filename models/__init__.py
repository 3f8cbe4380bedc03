"""Networks, and the Aug-Conv layer that takes the place of their first one."""
