"""The benchmarks. Each is a package here and a command of `objectcache bench`.

Importing this package costs nothing, so that helper processes, which are modules of it, stay light.
"""
