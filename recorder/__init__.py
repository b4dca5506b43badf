"""The recorder: kernel sock_diag tables in, a recording out."""
