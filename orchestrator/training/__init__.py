"""The torch room: data, models, the loop, checkpoints, memory and clock."""
