"""Write whole scans: read, encoded and written by several threads, with a checksum of every pattern."""
