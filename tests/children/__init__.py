"""What child processes of the tests run: importable by name, and quick to import."""
