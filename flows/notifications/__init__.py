"""What people are told outside of kircerta, and how: outbound only, and nothing without config/notifications.toml."""
