"""One study's life: the walk, its folder, and what is kept there."""
