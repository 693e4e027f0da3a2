"""How the images that the test bed is tried on are made: recipes, never binaries."""
