"""The contract between the kernel and its plugins; re-exported by :mod:`qres_core`."""
