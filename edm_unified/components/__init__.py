"""Components as frozen dataclasses with checked fields, the shipped recipes by name, and files written atomically."""
