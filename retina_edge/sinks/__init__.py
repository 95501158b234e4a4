"""Where results go on this machine: videos, pictures, text files, a window."""
