"""What a platform is made of, independent of where it runs. Pure: values in, values out, no I/O.

Belongs here: engine command lines, sizing, gateway configuration, tokens, the supervisor's configuration, file layout.
"""
