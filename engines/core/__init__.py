"""The core that all packages share: contract, letterbox, executor protocol, errors, atomic files, machine."""
