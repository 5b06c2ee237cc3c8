"""What a till says."""
