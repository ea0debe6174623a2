"""The scalar kernels compiled with numba. Importing a module of it imports numba."""
