"""Worlds in which billing is crashed, interleaved and lied to; and what must hold in each of them afterwards."""
