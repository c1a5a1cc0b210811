"""An index over a folder of images: features on disk, exact and approximate search, export."""
