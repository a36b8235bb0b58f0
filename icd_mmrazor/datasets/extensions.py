"""How names of image files end."""

# what mmpretrain's CustomDataset finds in a folder, and two more that OpenCV reads
EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
