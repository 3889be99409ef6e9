"""Where users are kept: one interface, an embedded store and a shared one."""
