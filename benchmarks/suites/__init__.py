"""What asv tracks from commit to commit: the public operators alone, so that it runs on any of them."""
