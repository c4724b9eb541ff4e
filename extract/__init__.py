"""Surfaces out of fields: level sets, meshes and their cleaning."""
