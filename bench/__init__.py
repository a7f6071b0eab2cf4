"""Load scripts: what gwrelay is measured and demonstrated with."""
