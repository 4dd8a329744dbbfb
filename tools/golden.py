"""Compares this project's numbers with the authors', from a folder of golden files.

    python -m dsmap.tools.golden FOLDER

FOLDER holds config.yaml, gen_*.pt, dis_*.pt, tensors.npz and scalars.json made by the authors' code. Every
intermediate, output, loss and gradient norm in it is computed here and compared; the exit code is 1 when one is off.
"""
