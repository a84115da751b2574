"""A door to the Docker engine that opens only for what a worker needs: see compose/README.md."""
