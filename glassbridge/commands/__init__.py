"""The commands, by whom they are for."""
