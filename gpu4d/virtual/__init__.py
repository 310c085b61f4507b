"""Virtual images and mean patterns."""
