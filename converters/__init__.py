"""One file per target: a torch program becomes a file on disk. Installed as ``pdp_export.converters``.

Start with `registry.py`; every other module is one target.
"""

if __name__ != "pdp_export.converters":
    raise ImportError("import pdp_export.converters, not converters: the folder is a package of pdp_export")
