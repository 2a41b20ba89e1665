"""What every choice is made of: the checked frozen dataclass, the recipes that ship, files written whole."""
