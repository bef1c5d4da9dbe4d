"""One case per destination: rows, and the exact request they become. Found by file name."""
