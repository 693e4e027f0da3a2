"""The catalogue of claims, and the profiles: one TOML file per OS and release line with the claims that it makes."""
