"""The catalogue of claims, and which of them each operating system makes: one TOML file per OS and release line."""
