"""From a camera, a video or pictures, through a detector, to files and windows."""
