"""What the studies share: records, tables and figures."""
