"""The core that every package shares: contract, letterbox, executor protocol, errors, files, machine."""
