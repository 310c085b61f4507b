"""CPU twins, compiled by numba. A file has the name of its operation; a twin has the definition's name and signature."""

if __name__ != "gpu4d.cpu_fallback":
    raise ImportError("this folder is installed as gpu4d.cpu_fallback; import that")
