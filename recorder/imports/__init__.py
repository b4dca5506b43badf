"""Evidence of others, text logs of ss and netstat and raw dumps, as recordings."""
