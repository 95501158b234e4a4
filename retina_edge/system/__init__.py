"""Services of the operating system: signals, threads, folders, text that is safe to print."""
