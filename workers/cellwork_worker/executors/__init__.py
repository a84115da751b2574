"""Whatever makes and ends sandboxes, behind the port in base.py."""
