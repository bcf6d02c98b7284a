"""What `fastmp.Pool` and `fastmp.ProcessPoolExecutor` both run on. See `core`."""
